//! A gauge whose values are worked out when somebody asks.

use prometheus::{
    GaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Values, each with those of its labels.
type Values<const N: usize> = Vec<([String; N], f64)>;

/// See the module.
pub(super) struct Computed<const N: usize> {
    gauges: GaugeVec,
    values: Box<dyn Fn() -> Values<N> + Send + Sync>,
}

impl<const N: usize> Computed<N> {
    pub(super) fn new(
        opts: Opts,
        labels: [&str; N],
        values: impl Fn() -> Values<N> + Send + Sync + 'static,
    ) -> prometheus::Result<Self> {
        Ok(Self {
            gauges: GaugeVec::new(opts, &labels)?,
            values: Box::new(values),
        })
    }
}

impl<const N: usize> Collector for Computed<N> {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // What is not there any more is not told of any more.
        self.gauges.reset();
        for (labels, value) in (self.values)() {
            self.gauges.with_label_values(&labels).set(value);
        }
        self.gauges.collect()
    }
}
