import time
def test_t(whole_runs):
    for name in ("handbook", "tickets"):
        t = time.time(); r = whole_runs(name); print(name, time.time() - t)
        print(open(r.folder / "timings.jsonl").read()[:3000])
        import json
        for l in open(r.folder / "events.jsonl"):
            d = json.loads(l)
            if d["event"] in ("strategy","fit","statistics","done","drafts","index","model"): print(d)
        for n, s in r.comparison["strategies"].items(): print(n, s["score"], s["statuses"], s["merge"])
