"""The remote back-end against a real server, `transformers serve` on the starter model, and under a real kill.

Nothing here reaches beyond this machine, and the server is stopped whatever happens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer

from toolkit.json_lines import read_lines
from toolkit.models import fetch_weights, resolve
from toolkit.runs.run import run

pytestmark = pytest.mark.end_to_end

MODEL = "smollm2-135m-instruct-q4"
READY_SECONDS = 180
STRATEGIES = "strategies={zero_shot: [], few_shot: [{prompt: {shots: 2}}]}"
SHORT = ["limit=4", "timing.examples=1", "dtype=float32", STRATEGIES]
CODE = "import sys; from pathlib import Path; from toolkit.runs.run import run; a = sys.argv; "
CODE += "run('quickstart', [a[1], 'timing.examples=0', 'strategies={zero_shot: []}'], out=Path(a[2]), store=Path(a[3]))"


@pytest.fixture(scope="module")
def weights() -> Path:
    return fetch_weights(resolve(MODEL, "model")).folder


@pytest.fixture(scope="module")
def served(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of `transformers serve` on the starter model, in float32."""
    port = _free_port()
    log = tmp_path_factory.mktemp("served") / "server.log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(weights), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # threads wait long on a busy machine
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with opener.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"`transformers serve` did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _entry(folder: Path, **endpoint: Any) -> str:
    path = folder / "served.yaml"
    path.write_text(f"name: served\nkind: model\nsource: {json.dumps({'endpoint': endpoint})}\n", encoding="utf-8")
    return f"model={json.dumps(str(path))}"


def _texts(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted((root / "outputs").rglob("*.jsonl")):
        for line in read_lines(path):
            output = line["output"]
            assert output["status"] != "error"
            found[f"{path.parent.name}/{output['example_id']}"] = str(output["text"])
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_real_server_answers_a_recipe_as_the_local_model_does(
    served: str, weights: Path, tmp_path: Path, stream: bool
) -> None:
    entry = _entry(tmp_path, url=served, model=str(weights), concurrency=2, stream=stream, timeout_seconds=600)
    hosted = run("quickstart", [*SHORT, entry], out=tmp_path / "hosted", store=tmp_path / "store")
    run("quickstart", SHORT, out=tmp_path / "local", store=tmp_path / "store")
    answers, expected = _texts(tmp_path / "hosted"), _texts(tmp_path / "local")
    assert len(answers) == 8
    assert answers.keys() == expected.keys()
    agreeing = sum(answers[name] == expected[name] for name in expected)
    print(f"{agreeing} of {len(expected)} greedy answers agree with the local model's in float32")
    assert answers == expected
    usage = hosted.ledger["strategies"]["few_shot"]["per_query"]
    local = json.loads((tmp_path / "local" / "ledger.json").read_text(encoding="utf-8"))
    assert usage["prompt_tokens"]["other"] == sum(
        local["strategies"]["few_shot"]["per_query"]["prompt_tokens"].values()
    )
    assert (tmp_path / "hosted" / "report.html").is_file()


def test_a_run_killed_in_the_middle_of_a_chunk_asks_again_only_what_was_under_way(tmp_path: Path) -> None:
    server = FaultyServer()
    server.seconds = 0.05
    try:
        entry = _entry(tmp_path, url=server.url, model="small", concurrency=2)
        command = [sys.executable, "-c", CODE, entry, str(tmp_path / "run"), str(tmp_path / "store")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            while len(server.answered) < 5 and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said.decode()
        before = len(server.answered)
        assert not list((tmp_path / "run" / "outputs").rglob("*.jsonl")), "no chunk was whole yet"
        subprocess.run(command, check=True, capture_output=True)
    finally:
        server.close()
    total, distinct = sum(server.answered.values()), len(server.answered)
    assert 5 <= before < distinct
    assert len(_texts(tmp_path / "run")) >= distinct
    assert total - distinct <= 2  # an answer on its way when the process dies cannot be written down
