"""Makes histograms, which Triton has since 24.12."""

import triton_python_backend_utils as pb_utils
from probes import ProbeModel, attempt


def Family(*args, **kwargs):
    return pb_utils.MetricFamily(*args, **kwargs)


class TritonPythonModel(ProbeModel):
    def made(self):
        family = Family("probe_times", "Times", pb_utils.MetricFamily.HISTOGRAM)
        metric = family.Metric({"model": "histograms"}, buckets=[0.1, 1, 10])
        metric.observe(0.5)
        return [attempt(metric.increment, 1), attempt(metric.set, 1), attempt(metric.value)]

    def without_buckets(self):
        return attempt(
            Family("probe_times", "Times", pb_utils.MetricFamily.HISTOGRAM).Metric, {"a": "b"}
        )

    def buckets_tuple(self):
        family = Family("probe_times", "Times", pb_utils.MetricFamily.HISTOGRAM)
        return attempt(family.Metric, {"a": "b"}, buckets=(1, 2))
