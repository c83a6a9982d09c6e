//! What the answers mean. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use tracer_common::ABI_VERSION;

use crate::kubernetes::cluster::Attempt;
use crate::kubernetes::rights::{Purpose, Right};
use crate::serve::api::wire::{Description, Hook, PodPlace};

/// Devices named of those that have the same programs.
const NAMED: usize = 3;
/// Wall clocks that differ by more make a trace's end a wrong one, nanoseconds.
const APART_NS: u64 = 30_000_000_000;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// A node, or what of the cluster it is about.
    pub about: String,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Good,
    /// Worth knowing; a follow works.
    Note,
    /// A follow does not work, or not wholly.
    Problem,
}

impl Finding {
    pub(super) fn good(about: &str, text: String) -> Self {
        Self { level: Level::Good, about: about.to_owned(), text }
    }

    fn note(about: &str, text: String) -> Self {
        Self { level: Level::Note, about: about.to_owned(), text }
    }

    pub(super) fn problem(about: &str, text: String) -> Self {
        Self { level: Level::Problem, about: about.to_owned(), text }
    }

    /// "PROBLEM  node-2: no agent there".
    #[must_use]
    pub fn line(&self, color: bool) -> String {
        let (word, code) = match self.level {
            Level::Good => ("good", "32"),
            Level::Note => ("note", "33"),
            Level::Problem => ("PROBLEM", "31"),
        };
        let word = if color { format!("\u{1b}[{code}m{word:<7}\u{1b}[0m") } else { format!("{word:<7}") };
        format!("{word}  {}: {}", self.about, self.text)
    }
}

/// By how much a wall clock is ahead of ours, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    pub ahead_ns: i64,
    pub error_ns: u64,
}

impl Clock {
    /// Of an answer with a time, to a question that was asked at `asked_ns` and took `took_ns`.
    #[must_use]
    pub fn between(asked_ns: u64, took_ns: u64, told_ns: u64) -> Self {
        let error_ns = took_ns.div_ceil(2);
        let ahead = i128::from(told_ns) - i128::from(asked_ns) - i128::from(error_ns);
        Self { ahead_ns: i64::try_from(ahead).unwrap_or(i64::MAX), error_ns }
    }

    /// "+0.4 ms +/- 1.2 ms".
    fn words(self) -> String {
        format!("{:+.1} ms +/- {:.1} ms", self.ahead_ns as f64 / 1e6, self.error_ns as f64 / 1e6)
    }
}

/// What a node's agent says.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeAnswer {
    pub description: Description,
    pub clock: Option<Clock>,
}

/// Of what whoever asks may do.
#[must_use]
pub fn of_rights(namespace: &str, asked: &[(Right, Attempt<'_>, bool)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (purpose, what) in [
        (Purpose::Follow, format!("pods of namespace {namespace} may be followed")),
        (Purpose::Payload, format!("payload of pods of namespace {namespace} may be captured")),
    ] {
        let missing: Vec<_> =
            asked.iter().filter(|(right, _, may)| right.purpose == purpose && !may).collect();
        if missing.is_empty() {
            findings.push(Finding::good("rights", what));
        }
        findings.extend(missing.into_iter().map(|(_, attempt, _)| match purpose {
            Purpose::Follow => Finding::problem("rights", attempt.forbidden()),
            Purpose::Payload => {
                Finding::note("rights", format!("no payload, which may be meant so: {}", attempt.forbidden()))
            }
        }));
    }
    findings
}

/// Of one node; `Err` says why its agent has not answered.
#[must_use]
pub fn of_node(node: &str, answer: &Result<NodeAnswer, String>) -> Vec<Finding> {
    let description = match answer {
        Ok(answer) => &answer.description,
        Err(why) => return vec![Finding::problem(node, why.clone())],
    };
    let mut findings = vec![Finding::good(node, summary(description))];
    if description.abi != ABI_VERSION {
        let Description { tracer, abi, .. } = description;
        let text = format!(
            "its agent ({tracer}) records in version {abi} and this program reads {ABI_VERSION}: use the client of the \
             agents' version, or update them"
        );
        findings.push(Finding::problem(node, text));
    }
    // What could not be looked at matters where something was not found.
    let is_missing = |place: &PodPlace| place.evidence.is_empty();
    let is_blind = description.pods_found < description.pods;
    if is_blind && description.pods_found == 0 {
        let text = format!("none of its {} pods is found: nothing of them can be followed", description.pods);
        findings.push(Finding::problem(node, text));
    }
    let level =
        if is_blind || description.places.iter().any(is_missing) { Finding::problem } else { Finding::note };
    findings.extend(description.problems.iter().map(|problem| level(node, problem.clone())));
    for place in &description.places {
        let level = if is_missing(place) { Finding::problem } else { Finding::note };
        let of_pod =
            place.problems.iter().map(|problem| level(node, format!("pod {}: {problem}", place.pod)));
        findings.extend(of_pod);
    }
    findings.extend(description.lacks.iter().map(|lack| Finding::note(node, lack.clone())));
    findings.extend(of_hooks(node, &description.hooks));
    findings
}

fn summary(description: &Description) -> String {
    let Description { tracer, kernel_release, has_tcx, knows_drops, pods, pods_found, traces, .. } =
        description;
    let hooks = if *has_tcx { "TCX" } else { "legacy clsact filters" };
    let drops = if *knows_drops { "drop reasons" } else { "no drop reasons" };
    let armed = if *traces == 0 { String::new() } else { format!(", {traces} traces armed") };
    format!(
        "tracer {tracer} on Linux {kernel_release}: {hooks}, {drops}, {pods_found} of {pods} pods found{armed}"
    )
}

/// Who else is on the hooks; devices with the same programs in one line.
fn of_hooks(node: &str, hooks: &[Hook]) -> Vec<Finding> {
    let mut alike: BTreeMap<(&str, Vec<String>), Vec<&str>> = BTreeMap::new();
    let mut findings = Vec::new();
    for hook in hooks {
        if !hook.programs.is_empty() {
            let programs = hook.programs.iter().map(|program| without_number(program)).collect();
            alike.entry((&hook.direction, programs)).or_default().push(&hook.device);
        }
        if !hook.blind.is_empty() {
            findings.push(Finding::note(node, format!("{} {}: {}", hook.device, hook.direction, hook.blind)));
        }
    }
    for ((direction, programs), devices) in alike {
        let named = devices.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let more = devices.len().saturating_sub(NAMED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let text = format!("behind tracer on {named}{more}, {direction}: {}", programs.join(", then "));
        findings.push(Finding::note(node, text));
    }
    findings
}

/// Of "name id 7, tcx": the same program elsewhere has another number.
fn without_number(program: &str) -> String {
    let Some((name, rest)) = program.split_once(" id ") else { return program.to_owned() };
    format!("{name}{}", rest.trim_start_matches(|letter: char| letter.is_ascii_digit()))
}

/// Of the nodes' wall clocks against ours. Packets' times do not depend on them; ends of traces do.
#[must_use]
pub fn of_clocks(clocks: &[(&str, Clock)]) -> Vec<Finding> {
    let is_far = |clock: &Clock| clock.ahead_ns.unsigned_abs() > clock.error_ns.saturating_add(APART_NS);
    let far = clocks.iter().filter(|(_, clock)| is_far(clock)).map(|(node, clock)| {
        let text = format!(
            "its wall clock is {} from this machine's: traces may seem to have ended, or not end in time; is NTP running on \
             both?",
            clock.words()
        );
        Finding::problem(node, text)
    });
    let mut findings: Vec<Finding> = far.collect();
    let near = clocks.iter().filter(|(_, clock)| !is_far(clock));
    let near: Vec<String> = near.map(|(node, clock)| format!("{node} {}", clock.words())).collect();
    if !near.is_empty() {
        findings.push(Finding::good("wall clocks", format!("from this machine's: {}", near.join(", "))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::rights;

    fn answer() -> NodeAnswer {
        let hook = |device: &str, programs: &[&str], blind: &str| Hook {
            device: device.to_owned(),
            direction: "ingress".to_owned(),
            pod: String::new(),
            programs: programs.iter().map(|program| (*program).to_owned()).collect(),
            blind: blind.to_owned(),
        };
        let description = Description {
            tracer: "0.1.0".to_owned(),
            abi: ABI_VERSION,
            kernel_release: "6.12.1".to_owned(),
            has_tcx: true,
            knows_drops: true,
            pods: 12,
            pods_found: 11,
            hooks: vec![
                hook("lxc1", &["cil_from_container id 7, tcx"], ""),
                hook("lxc2", &["cil_from_container id 8, tcx"], ""),
                hook("eth0", &[], "something is not seen"),
            ],
            places: vec![PodPlace {
                pod: "shop/db".to_owned(),
                evidence: String::new(),
                problems: vec!["was not found".to_owned()],
            }],
            ..Description::default()
        };
        NodeAnswer { description, clock: None }
    }

    fn lines(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|finding| finding.line(false)).collect()
    }

    #[test]
    fn a_node_says_what_it_is_what_is_missing_and_who_else_is_on_its_hooks() {
        assert_eq!(
            lines(&of_node("node-1", &Ok(answer()))),
            [
                "good     node-1: tracer 0.1.0 on Linux 6.12.1: TCX, drop reasons, 11 of 12 pods found",
                "PROBLEM  node-1: pod shop/db: was not found",
                "note     node-1: eth0 ingress: something is not seen",
                "note     node-1: behind tracer on lxc1, lxc2, ingress: cil_from_container, tcx",
            ]
        );
        let none = of_node("node-2", &Err("no agent there".to_owned()));
        assert_eq!(lines(&none), ["PROBLEM  node-2: no agent there"]);
    }

    #[test]
    fn an_agent_of_another_version_is_a_problem() {
        let mut other = answer();
        other.description.abi = ABI_VERSION + 1;
        let found = of_node("node-1", &Ok(other));
        let is_it = |finding: &Finding| finding.level == Level::Problem && finding.text.contains("version");
        assert!(found.iter().any(is_it), "{found:?}");
    }

    #[test]
    fn a_missing_right_is_a_problem_with_the_line_that_proves_it_and_that_to_payload_a_note() {
        let asked: Vec<_> = rights::of_people()
            .map(|right| {
                let attempt = Attempt { verb: right.verb, resource: right.resource, namespace: Some("shop") };
                (right, attempt, right.verb != "patch" && right.purpose == Purpose::Follow)
            })
            .collect();
        let found = of_rights("shop", &asked);
        let [patch, payload] = &found[..] else { panic!("{found:?}") };
        assert_eq!((patch.level, payload.level), (Level::Problem, Level::Note));
        assert!(
            patch.text.contains("(kubectl auth can-i patch packettraces.tracer.dev -n shop)"),
            "{patch:?}"
        );
        let all: Vec<_> = asked.iter().map(|(right, attempt, _)| (*right, *attempt, true)).collect();
        assert!(of_rights("shop", &all).iter().all(|finding| finding.level == Level::Good));
    }

    #[test]
    fn wall_clocks_are_compared_within_what_the_question_took() {
        let clock = Clock::between(1_000_000_000, 4_000_000, 1_003_000_000);
        assert_eq!(clock, Clock { ahead_ns: 1_000_000, error_ns: 2_000_000 });
        let told = lines(&of_clocks(&[("n", clock)]));
        assert_eq!(told, ["good     wall clocks: from this machine's: n +1.0 ms +/- 2.0 ms"]);
        let far = Clock { ahead_ns: -60_000_000_000, error_ns: 1_000_000 };
        assert_eq!(of_clocks(&[("n", clock), ("m", far)])[0].level, Level::Problem);
        assert!(of_clocks(&[]).is_empty());
    }
}
