"""cascade: a small strategy answers what it is sure of; the rest goes to the stack that this part belongs to."""

from dataclasses import replace

from toolkit import Adapter, Part


class CascadeAdapter(Adapter):
    small: str
    threshold: float = 0.5

    def uses(self):
        return (self.small,)

    def fit(self, context):
        return Cascade(context.system(self.small), self.threshold)


class Cascade(Part):
    def __init__(self, small, threshold):
        self.small, self.threshold = small, threshold

    def respond(self, drafts, answer):
        outputs = self.small.answer([draft.example for draft in drafts])
        unsure = [n for n, said in enumerate(outputs) if (said.confidence or 0.0) < self.threshold]
        for n, said in zip(unsure, answer([drafts[n] for n in unsure]), strict=True):
            outputs[n] = replace(said, usage=outputs[n].usage + said.usage)
        return outputs
