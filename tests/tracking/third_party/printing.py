"""A tracker that prints."""


class Printing:
    def start(self, run):
        print(run.name, dict(run.settings))

    def log(self, step, values):
        print(step, ", ".join(f"{name} {value:.3g}" for name, value in values.items()))

    def finish(self, results):
        for name, result in (results or {}).items():  # None where the run was stopped
            print(name, dict(result.values), dict(result.tags))
