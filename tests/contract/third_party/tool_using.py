"""tool_using: the model may answer `CALL 2+3`; the value comes back as a turn and the model is asked again."""

import re
from dataclasses import replace

from toolkit import Adapter, Message, Part


class ToolUsingAdapter(Adapter):
    rounds: int = 2

    def fit(self, context):
        return Calculator(self.rounds)


class Calculator(Part):
    def __init__(self, rounds):
        self.rounds = rounds

    def respond(self, drafts, answer):
        drafts, outputs = list(drafts), answer(drafts)
        for _ in range(self.rounds):
            calls = {n: re.fullmatch(r"CALL (\d+) *([+*]) *(\d+)", said.text) for n, said in enumerate(outputs)}
            calls = {n: int(c[1]) + int(c[3]) if c[2] == "+" else int(c[1]) * int(c[3]) for n, c in calls.items() if c}
            for n, value in calls.items():
                drafts[n] = drafts[n].with_turns([Message("assistant", outputs[n].text), Message("user", f"= {value}")])
            for n, said in zip(calls, answer([drafts[n] for n in calls]), strict=True):
                made = (*outputs[n].tool_calls, outputs[n].text)
                outputs[n] = replace(said, tool_calls=made, usage=outputs[n].usage + said.usage)
        return outputs
