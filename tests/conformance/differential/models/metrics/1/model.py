"""Makes metrics of its own."""

import triton_python_backend_utils as pb_utils
from probes import ProbeModel, attempt


def Family(*args, **kwargs):
    return pb_utils.MetricFamily(*args, **kwargs)


class TritonPythonModel(ProbeModel):
    def initialize(self, args):
        self.count = Family(
            name="probe_count", description="A count", kind=pb_utils.MetricFamily.COUNTER
        )
        self.level = Family("probe_level", "A level", pb_utils.MetricFamily.GAUGE)
        self.counter = self.count.Metric(labels={"model": "metrics", "which": "first"})
        self.second = self.count.Metric(labels={"model": "metrics", "which": "second"})
        self.gauge = self.level.Metric({"model": "metrics"})

    def counter_increments(self):
        before = self.counter.value()
        self.counter.increment(2)
        self.counter.increment(0.5)
        return self.counter.value() - before

    def counter_is_zero_at_first(self):
        return self.second.value()

    def counter_below_zero(self):
        return attempt(self.counter.increment, -1)

    def counter_is_not_set(self):
        return attempt(self.counter.set, 3)

    def counter_does_not_observe(self):
        return attempt(self.counter.observe, 3)

    def counter_text(self):
        return attempt(self.counter.increment, "a")

    def gauge_values(self):
        self.gauge.set(5)
        self.gauge.increment(-7)
        return self.gauge.value()

    def gauge_does_not_observe(self):
        return attempt(self.gauge.observe, 3)

    def labels_list(self):
        return attempt(self.count.Metric, labels=["a"])

    def labels_none(self):
        metric = self.level.Metric()
        metric.set(1)
        return metric.value()

    def label_number(self):
        return attempt(lambda: self.level.Metric({"a": 3}).value())

    def unexpected_buckets(self):
        return attempt(self.count.Metric, labels={"a": "b"}, buckets=[1, 2])

    def same_labels_share_a_value(self):
        one = self.level.Metric({"model": "metrics", "shared": "yes"})
        other = self.level.Metric({"model": "metrics", "shared": "yes"})
        one.set(4)
        return other.value()

    def same_family_again(self):
        again = Family("probe_count", "A count", pb_utils.MetricFamily.COUNTER)
        return again.Metric({"model": "metrics", "which": "second"}).value()

    def family_of_another_kind(self):
        return attempt(Family, "probe_count", "A count", pb_utils.MetricFamily.GAUGE)

    def family_bad_name(self):
        return attempt(Family, "bad name", "x", pb_utils.MetricFamily.COUNTER)

    def family_without_kind(self):
        return attempt(Family, "probe_x", "x")

    def family_kind_number(self):
        return attempt(Family, "probe_x", "x", 0)

    def family_deleted(self):
        family = Family("probe_gone", "x", pb_utils.MetricFamily.COUNTER)
        metric = family.Metric({"a": "b"})
        del family
        return attempt(metric.increment, 1)

    def family_deleted_then_value(self):
        family = Family("probe_gone", "x", pb_utils.MetricFamily.COUNTER)
        metric = family.Metric({"a": "b"})
        del family
        return attempt(metric.value)
