//! OpenMetrics text. Names and units are told in docs/metrics.md.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tracer_common::measure::{BUCKET_COUNT, LAST_CAPACITY, LegHistogram, STEP_BITS, bucket_end};
use tracer_common::outcome::{MeasureOutcome, Outcome};

use super::kinds::{direction_name, kind_name, role_name};
use super::source::{Source, packets};

/// The content type of what [`render`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one scrape.
#[must_use]
pub fn render(source: &Source) -> String {
    let mut registry = Registry::with_prefix("tracer");
    registry.register_collector(Box::new(Scrape(source.clone())));
    let mut text = String::new();
    // Only a writer can fail, and a string does not.
    let _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Scrape(Source);

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        self.build(encoder)?;
        self.legs(encoder)?;
        self.groups(encoder)?;
        self.sampling(encoder)?;
        self.hooks(encoder)?;
        self.losses(encoder)?;
        self.drops(encoder)?;
        self.agent(encoder)?;
        self.cost(encoder)
    }
}

impl Scrape {
    fn build(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let mut metric = encoder.encode_descriptor("build", "Version of tracer", None, MetricType::Info)?;
        metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn agent(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some(agent) = self.0.agent else { return Ok(()) };
        let traces = [("armed", agent.armed), ("refused", agent.refused), ("expired", agent.expired)];
        let help = "PacketTraces that concern this node, by what became of them";
        let mut metric = encoder.encode_descriptor("traces", help, None, MetricType::Gauge)?;
        for (state, count) in traces {
            metric.encode_family(&labels("state", state))?.encode_gauge(&count)?;
        }
        gauge(encoder, "streams", "Callers that get records", agent.streams)?;
        counter(encoder, "streams_denied", "Callers that were refused", agent.denied)?;
        gauge(encoder, "pods", "Pods of this node with a network of their own", agent.pods)
    }

    fn legs(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let legs = || {
            self.0
                .measured
                .legs
                .iter()
                .filter_map(|(from, to, leg)| Some((kind_name(*from)?, kind_name(*to)?, leg)))
        };
        let mut metric = encoder.encode_descriptor(
            "leg_latency",
            "Time from one point to the next of sampled packets, within one node",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (from, to, leg) in legs() {
            let labels: Labels<'_> = vec![("from", &from), ("to", &to)];
            histogram(&mut metric, &labels, leg)?;
        }
        let mut metric = encoder.encode_descriptor(
            "leg_sampled",
            "Bytes of sampled packets where their leg ends, encapsulation included",
            Some(&Unit::Bytes),
            MetricType::Counter,
        )?;
        for (from, to, leg) in legs() {
            let labels: Labels<'_> = vec![("from", &from), ("to", &to)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&leg.bytes, None)?;
        }
        Ok(())
    }

    /// Only where somebody asked for them.
    fn groups(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some(groups) = &self.0.groups else { return Ok(()) };
        let name = format!("{}_leg_latency", groups.by.label());
        let mut metric = encoder.encode_descriptor(
            &name,
            "As leg_latency, of packets from or to one of them, within its node",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (group, from, to, leg) in &self.0.measured.group_legs {
            let (Some(name), Some(from), Some(to)) = (groups.name(*group), kind_name(*from), kind_name(*to))
            else {
                continue;
            };
            let labels: Labels<'_> = vec![
                ("namespace", &name.namespace),
                (groups.by.label(), &name.name),
                ("from", &from),
                ("to", &to),
            ];
            histogram(&mut metric, &labels, leg)?;
        }
        let help = "Pods or workloads that have no legs of their own: there are more than asked for";
        gauge(encoder, "groups_refused", help, groups.refused())?;
        let help = "Legs of pods or workloads for which the kernel had no room";
        counter(encoder, "group_legs_untold", help, self.0.measured.group_legs_untold)
    }

    fn sampling(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        if self.0.sample_rate == 0 {
            return Ok(());
        }
        let measured = &self.0.measured;
        gauge(encoder, "sample_rate", "One packet in so many is sampled", u64::from(self.0.sample_rate))?;
        counters(
            encoder,
            "sampling_packets",
            "Packets at hooks by what the program that measures did with them",
            "outcome",
            MeasureOutcome::ALL.iter().map(|outcome| (outcome.name(), measured.get(*outcome))),
        )?;
        counter(
            encoder,
            "sampling_ended",
            "Sampled packets that were followed until they left the node",
            measured.ended,
        )?;
        counter(
            encoder,
            "sampling_evictions",
            "Sampled packets that the kernel forgot for others, as far as can be told at this scrape",
            measured.evicted,
        )?;
        gauge(encoder, "sampling_remembered", "Sampled packets that are remembered", measured.remembered)?;
        gauge(
            encoder,
            "sampling_capacity",
            "Sampled packets that can be remembered",
            u64::from(LAST_CAPACITY),
        )
    }

    fn hooks(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let outcomes = Outcome::ALL.iter().map(|outcome| (outcome.name(), self.0.outcomes.get(*outcome)));
        counters(
            encoder,
            "hook_packets",
            "Packets at hooks by what the observing program did",
            "outcome",
            outcomes,
        )?;
        gauge(encoder, "devices_planned", "Devices that should be attached to", self.0.devices_planned)?;
        let mut metric = encoder.encode_descriptor(
            "points",
            "Hooks that are attached; pods' devices together, others by name",
            None,
            MetricType::Gauge,
        )?;
        for point in &self.0.points {
            let labels: Labels<'_> = vec![
                ("node", &point.node),
                ("device", &point.device),
                ("role", role_name(point.role)),
                ("direction", direction_name(point.direction)),
            ];
            metric.encode_family(&labels)?.encode_gauge(&point.count)?;
        }
        Ok(())
    }

    fn losses(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let losses = &self.0.losses;
        let stages = [
            ("ring_full", losses.ring_full),
            ("channel_full", losses.channel_full),
            ("undecodable", losses.undecodable),
            ("unattributed", losses.unattributed),
            ("drop_records", losses.drop_records),
        ];
        counters(encoder, "records_lost", "Records that are missing, by stage", "stage", stages)
    }

    /// None where the kernel does not tell of drops.
    fn drops(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some(drops) = self.0.drops.as_ref().filter(|_| self.0.sample_rate > 0) else { return Ok(()) };
        let help =
            "Packets that the kernel threw away, by its reason and the role of the device where it did";
        let mut metric = encoder.encode_descriptor("drops", help, None, MetricType::Counter)?;
        for drop in drops {
            let labels: Labels<'_> = vec![
                ("node", &drop.node),
                ("role", drop.role.map_or("none", role_name)),
                ("reason", &drop.reason),
            ];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&drop.count, None)?;
        }
        counter(
            encoder,
            "drops_untold",
            "Drops at more places than are counted",
            self.0.measured.drops_untold,
        )
    }

    /// No number where the kernel has none: a zero would say that it costs nothing.
    fn cost(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some((runs, time)) = self.0.runs else { return Ok(()) };
        counter(encoder, "program_runs", "Runs of the programs at hooks", runs)?;
        let help = "Time of these runs, with all programs behind the hook's";
        let unit = Some(&Unit::Seconds);
        let mut metric = encoder.encode_descriptor("program_run", help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&time.as_secs_f64(), None)
    }
}

/// Octaves of a leg, with their upper ends in seconds: four of the kernel's buckets each.
fn octaves(leg: &LegHistogram) -> Vec<(f64, u64)> {
    let mut octaves = Vec::new();
    let mut count = 0;
    for (bucket, packets) in (0..BUCKET_COUNT).zip(leg.buckets) {
        count += packets;
        match bucket_end(bucket) {
            Some(end) if bucket.is_multiple_of(1 << STEP_BITS) => {
                octaves.push((end as f64 / 1e9, count));
                count = 0;
            }
            Some(_) => {}
            None => octaves.push((f64::INFINITY, count)),
        }
    }
    octaves
}

/// One leg's latencies.
fn histogram(metric: &mut MetricEncoder<'_>, labels: &Labels<'_>, leg: &LegHistogram) -> fmt::Result {
    let sum = leg.sum_ns as f64 / 1e9;
    metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, packets(leg), &octaves(leg), None)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn counters(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl IntoIterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        metric.encode_family(&labels(label, value))?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn labels(label: &'static str, value: &'static str) -> impl EncodeLabelSet {
    [(label, value)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracer_common::measure::bucket_of;

    use super::*;
    use crate::agent::metrics::kinds::point_info;
    use crate::agent::metrics::source::{AgentState, Measured};
    use crate::trajectory::model::{DeviceRole, Direction};

    fn with_leg(latencies_ns: &[u64]) -> Source {
        let mut leg = LegHistogram { bytes: 1500, ..LegHistogram::default() };
        for latency in latencies_ns {
            leg.sum_ns += latency;
            leg.buckets[bucket_of(*latency) as usize] += 1;
        }
        let from = u32::from(point_info(DeviceRole::PodInterface, Direction::Egress).kind);
        let to = u32::from(point_info(DeviceRole::PodPeer, Direction::Ingress).kind);
        let measured = Measured { legs: vec![(from, to, leg)], ..Measured::default() };
        Source { sample_rate: 64, measured, ..Source::default() }
    }

    #[test]
    fn a_legs_buckets_are_cumulative_and_in_seconds() {
        let text = render(&with_leg(&[100, 1000, 1500, 3_000_000_000_000]));
        let line = |end: &str| format!("{{from=\"pod_interface_egress\",to=\"pod_peer_ingress\"{end}");
        let name = "tracer_leg_latency_seconds";
        for expected in [
            format!("{name}_bucket{} 1\n", line(",le=\"2.56e-7\"}")).replace("{from", "{le=\"2.56e-7\",from"),
            format!("{name}_sum{} 3000.0000026\n", line("}")),
            format!("{name}_count{} 4\n", line("}")),
            // Prometheus computes no quantile without it.
            format!("{name}_bucket{} 4\n", line("}")).replace("{from", "{le=\"+Inf\",from"),
        ] {
            // Where the client puts `le` among the labels is its affair.
            let plain = |text: &str| text.replace("le=\"2.56e-7\",", "").replace(",le=\"2.56e-7\"", "");
            assert!(plain(&text).contains(&plain(&expected)), "{expected} is not in\n{text}");
        }
        assert!(text.contains("tracer_leg_sampled_bytes_total"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn an_agent_tells_of_its_traces_and_of_samples_only_where_it_takes_them() {
        assert!(!render(&with_leg(&[1000])).contains("tracer_traces"));
        let agent = AgentState { armed: 2, denied: 3, ..AgentState::default() };
        let text = render(&Source { agent: Some(agent), ..Source::default() });
        assert!(text.contains("tracer_traces{state=\"armed\"} 2\n"), "{text}");
        assert!(text.contains("tracer_streams_denied_total 3\n"), "{text}");
        assert!(!text.contains("tracer_sample_rate"), "{text}");
    }

    #[test]
    fn what_the_kernel_does_not_say_of_our_cost_is_not_told() {
        let mut source = with_leg(&[1000]);
        assert!(!render(&source).contains("tracer_program_run"));
        source.runs = Some((7, Duration::from_millis(1500)));
        let text = render(&source);
        assert!(text.contains("tracer_program_run_seconds_total 1.5\n"), "{text}");
        assert!(text.contains("tracer_program_runs_total 7\n"), "{text}");
    }
}
