"""Any encoder as a feature network: pictures of any size, on the device, to its outputs by name."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from latentkit.encoders import Encoder
from latentkit.errors import UsageError
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric


class FeatureNetwork(nn.Module):
    """An encoder's network behind its geometry, both on the device.

    Args:
        encoder: one that `check_extractors` has passed.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        assert encoder.geometry is not None
        self.name, self.prepare, self.network = encoder.name, encoder.geometry.prepare, encoder.load()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, H, W, 3] -> ``encoder.output`` -> [B, ...]."""
        outputs = self.network(pixels=self.prepare(pixels))
        return {f"{self.name}.{output}": value for output, value in outputs.items()}


def extractors_of(features: Iterable[str], encoders: Sequence[Encoder]) -> list[Encoder]:
    """Those of the encoders whose outputs are among the features, ``encoder.output`` each."""
    names = {feature.rpartition(".")[0] for feature in features}
    return [encoder for encoder in encoders if encoder.name in names]


def check_extractors(metrics: Mapping[str, EvaluationMetric], encoders: Sequence[Encoder]) -> None:
    """Raise UsageError where a metric reads what none of the encoders gives, or one cannot be an extractor.

    Args:
        metrics: name -> metric.
        encoders: those that they need, and no others.
    """
    for encoder in encoders:
        if encoder.geometry is None:
            raise UsageError(f"{encoder.where}: it reads captions: an extractor reads pictures")
        if not encoder.geometry.on_tensors:
            raise UsageError(
                f"{encoder.where}: {type(encoder.geometry).__name__} prepares its pictures, on the host: "
                "an extractor prepares them on the device"
            )
    given = {f"{encoder.name}.{output}" for encoder in encoders for output in encoder.outputs}
    for name, metric in metrics.items():
        for feature in sorted({*metric.features} - {PIXELS, ORIGINALS, *given}):
            choices = ", ".join(sorted(given)) or "none"
            raise UsageError(
                f"metric={name} reads {feature}, which no extractor gives (there are: {choices})"
            )
