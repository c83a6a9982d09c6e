use super::*;
use crate::kubernetes::packet_trace::TracedPod;
use crate::kubernetes::secret::Secret;
use crate::serve::request::tests::{NOON_S, trace};

const NODE: &str = "node-1";
const NOW_NS: u64 = 1_000;

/// An agent's traces, and what its clocks show.
struct Agent {
    traces: Traces,
    now_s: i64,
}

impl Agent {
    fn new() -> Self {
        Self { traces: Traces::new(NODE), now_s: NOON_S }
    }

    /// Puts a trace and answers what is asked about its pods: they are there.
    fn arm(&mut self, trace: &PacketTrace) -> TraceKey {
        if let Some((key, wanted)) = self.traces.put(trace, self.now_s, NOW_NS) {
            self.traces.settle(&key, &wanted, Ok(curl("10.244.0.153")), NOW_NS + 1, NOW_NS);
        }
        TraceKey::of(trace).unwrap()
    }

    fn state(&mut self) -> Vec<(TraceState, String)> {
        self.traces.take_news().into_iter().map(|(_, status)| (status.state, status.message)).collect()
    }
}

fn pod(name: &str) -> PodRef {
    PodRef { namespace: "default".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") }
}

fn curl(address: &str) -> Verified {
    Verified {
        addresses: [address.parse().unwrap()].into(),
        masqueraded: ["10.135.0.11".parse().unwrap()].into(),
        pods: [pod("curl")].into(),
        ..Verified::default()
    }
}

#[test]
fn another_secret_opens_an_armed_trace_only_when_it_is_verified_with_all_else() {
    let mut agent = Agent::new();
    let (first, second) = (Secret::new().unwrap(), Secret::new().unwrap());
    let mut asked = trace("one", &first);
    let key = agent.arm(&asked);
    asked.spec.secret_sha256 = second.hash().to_string();
    asked.metadata.generation = Some(2);
    let (_, wanted) = agent.traces.put(&asked, NOON_S, NOW_NS).unwrap();
    assert_eq!(agent.traces.admit(&key, second.bytes()), Err(Refusal::Unknown));
    assert!(agent.traces.admit(&key, first.bytes()).is_ok());
    agent.traces.settle(&key, &wanted, Ok(curl("10.244.0.153")), NOW_NS + 1, NOW_NS);
    assert_eq!(agent.traces.admit(&key, first.bytes()), Err(Refusal::Unknown));
    assert!(agent.traces.admit(&key, second.bytes()).is_ok());
}

#[test]
fn a_verified_trace_is_armed_with_what_its_names_stand_for_and_not_with_what_it_claims() {
    let mut agent = Agent::new();
    let (secret, mut asked) = (Secret::new().unwrap(), trace("one", &Secret::new().unwrap()));
    asked.spec.secret_sha256 = secret.hash().to_string();
    let key = agent.arm(&asked);

    let [(slot, filter)] = &agent.traces.filters()[..] else { panic!() };
    assert_eq!(filter.a, ["10.135.0.11".parse::<IpAddr>().unwrap(), "10.244.0.153".parse().unwrap()]);
    assert_eq!(filter.b.as_ref().map(Vec::len), Some(2));
    let admission = agent.traces.admit(&key, secret.bytes()).unwrap();
    assert_eq!((admission.slot, admission.since_ns), (*slot, NOW_NS));
    assert_eq!(agent.state(), [(TraceState::Armed, String::new())]);
    assert_eq!(agent.state(), [], "said once");
    assert!(agent.traces.shows(&key, &pod("curl")) && !agent.traces.shows(&key, &pod("other")));
    let scope = agent.traces.scope();
    assert_eq!(scope.pods, Some([pod("curl")].into()));
    assert_eq!(scope.nodes, Some([NODE.into()].into()));
}

#[test]
fn without_a_named_other_end_a_nodes_own_address_is_not_recorded() {
    let mut agent = Agent::new();
    let mut asked = trace("one", &Secret::new().unwrap());
    asked.spec.peers = None;
    agent.arm(&asked);
    assert_eq!(agent.traces.filters()[0].1.a, ["10.244.0.153".parse::<IpAddr>().unwrap()]);
}

#[test]
fn records_go_only_to_who_knows_the_secret_of_this_very_trace() {
    let mut agent = Agent::new();
    let (one, two) = (Secret::new().unwrap(), Secret::new().unwrap());
    let (first, second) = (trace("one", &one), trace("two", &two));
    let (first, second) = (agent.arm(&first), agent.arm(&second));
    let replaced = TraceKey { uid: "of another".to_owned(), ..first.clone() };
    let elsewhere = TraceKey { namespace: "shop".to_owned(), ..first.clone() };
    for (key, secret) in
        [(&first, two.bytes()), (&second, one.bytes()), (&replaced, one.bytes()), (&elsewhere, one.bytes())]
    {
        assert_eq!(agent.traces.admit(key, secret), Err(Refusal::Unknown), "{key:?}");
    }
    assert_eq!(agent.traces.admit(&first, &[]), Err(Refusal::Unknown));
    assert_eq!(agent.traces.admit(&first, one.hash().to_string().as_bytes()), Err(Refusal::Unknown));
    assert!(agent.traces.admit(&first, one.bytes()).is_ok());
}

#[test]
fn a_trace_that_is_not_verified_yet_is_not_armed_and_one_whose_pods_are_not_there_never() {
    let mut agent = Agent::new();
    let secret = Secret::new().unwrap();
    let asked = trace("one", &secret);
    let (key, wanted) = agent.traces.put(&asked, NOON_S, NOW_NS).unwrap();
    assert_eq!(agent.traces.filters(), []);
    assert!(agent.traces.scope().is_nothing());
    assert_eq!(agent.traces.admit(&key, secret.bytes()), Err(Refusal::NotYet));

    agent.traces.settle(&key, &wanted, Ok(Verified::default()), NOW_NS, NOW_NS);

    assert_eq!(agent.traces.filters(), []);
    let [(TraceState::Refused, why)] = &agent.state()[..] else { panic!() };
    assert_eq!(why, "there is no such pod in namespace default: curl (uid-curl)");
    assert!(matches!(agent.traces.admit(&key, secret.bytes()), Err(Refusal::Refused(_))));
}

#[test]
fn a_trace_ends_when_its_time_is_over_unless_its_end_has_moved_on() {
    let mut agent = Agent::new();
    let secret = Secret::new().unwrap();
    let mut asked = trace("one", &secret);
    let key = agent.arm(&asked);
    let slot = agent.traces.admit(&key, secret.bytes()).unwrap().slot;
    asked.spec.expires = jiff::Timestamp::from_second(NOON_S + 300).unwrap().to_string();
    asked.metadata.generation = Some(2);
    assert_eq!(agent.traces.put(&asked, NOON_S, NOW_NS), None, "nothing to verify");

    assert!(!agent.traces.expire(NOON_S + 200, NOW_NS));
    assert!(agent.traces.holds(&key, slot));
    assert!(agent.traces.expire(NOON_S + 300, NOW_NS));

    assert!(!agent.traces.holds(&key, slot));
    assert_eq!(agent.traces.filters(), []);
    assert_eq!(agent.traces.admit(&key, secret.bytes()), Err(Refusal::Expired));
    assert_eq!(agent.traces.take_outlived(NOON_S + 299), []);
    assert_eq!(agent.traces.take_outlived(NOON_S + 300), [key]);
    assert_eq!(agent.traces.take_outlived(NOON_S + 400), [], "once");
}

#[test]
fn a_slot_stays_a_traces_own_while_others_come_and_go() {
    let mut agent = Agent::new();
    let secret = Secret::new().unwrap();
    let keys: Vec<_> = ["one", "two", "three"].map(|name| agent.arm(&trace(name, &secret))).into();
    let slot = |agent: &Agent, key| agent.traces.admit(key, secret.bytes()).unwrap().slot;
    let (first, third) = (slot(&agent, &keys[0]), slot(&agent, &keys[2]));

    agent.traces.remove(&keys[0], NOW_NS);

    assert_eq!(slot(&agent, &keys[2]), third);
    assert_eq!(agent.traces.admit(&keys[0], secret.bytes()), Err(Refusal::Unknown));
    // The ring was read past the end of the first one.
    let fourth = agent.arm(&trace("four", &secret));
    assert_eq!(slot(&agent, &fourth), first);
}

#[test]
fn what_was_verified_before_holds_until_a_change_is_and_an_answer_to_an_older_question_changes_nothing() {
    let mut agent = Agent::new();
    let mut asked = trace("one", &Secret::new().unwrap());
    let key = agent.arm(&asked);
    asked.spec.pods.push(TracedPod { name: "curl-2".to_owned(), uid: "uid-curl-2".to_owned() });
    asked.metadata.generation = Some(2);
    let (_, second) = agent.traces.put(&asked, NOON_S, NOW_NS).unwrap();
    assert_eq!(agent.traces.filters().len(), 1);
    asked.spec.pods.remove(0);
    asked.metadata.generation = Some(3);
    let (_, third) = agent.traces.put(&asked, NOON_S, NOW_NS).unwrap();

    agent.traces.settle(&key, &second, Ok(curl("10.244.0.2")), NOW_NS, NOW_NS);
    assert!(agent.traces.filters()[0].1.a.contains(&"10.244.0.153".parse().unwrap()));
    agent.traces.settle(&key, &third, Ok(curl("10.244.0.3")), NOW_NS, NOW_NS);
    assert!(agent.traces.filters()[0].1.a.contains(&"10.244.0.3".parse().unwrap()));
}

#[test]
fn a_change_that_is_wrong_ends_what_was_armed_and_one_of_other_nodes_is_none_of_ours() {
    let mut agent = Agent::new();
    let mut asked = trace("one", &Secret::new().unwrap());
    agent.arm(&asked);
    asked.spec.ports = vec![80; 100];
    asked.metadata.generation = Some(2);
    assert_eq!(agent.traces.put(&asked, NOON_S, NOW_NS), None);
    assert_eq!(agent.traces.filters(), []);
    assert!(matches!(&agent.state()[..], [(TraceState::Refused, why)] if why.starts_with("spec.ports")));

    let mut elsewhere = trace("two", &Secret::new().unwrap());
    elsewhere.spec.nodes = vec!["node-2".to_owned()];
    assert_eq!(agent.traces.put(&elsewhere, NOON_S, NOW_NS), None);
    assert_eq!(agent.state(), []);
}

#[test]
fn more_traces_than_there_are_slots_are_refused_with_the_reason() {
    let mut agent = Agent::new();
    let secret = Secret::new().unwrap();
    for number in 0..=tracer_common::MAX_FOLLOWS {
        agent.arm(&trace(&format!("trace-{number:02}"), &secret));
    }
    assert_eq!(agent.traces.filters().len(), tracer_common::MAX_FOLLOWS);
    let refused = agent.state().into_iter().filter(|(state, _)| *state == TraceState::Refused);
    assert_eq!(
        refused.map(|(_, why)| why).collect::<Vec<_>>(),
        ["64 traces are armed on this node, and more the kernel side does not hold"]
    );
}

#[test]
fn a_trace_for_which_there_is_no_room_is_told_so_once() {
    let mut agent = Agent::new();
    let secret = Secret::new().unwrap();
    for number in 0..MOST_TRACES {
        agent.traces.put(&trace(&format!("trace-{number:04}"), &secret), NOON_S, NOW_NS);
    }
    let mut late = trace("late", &secret);

    assert_eq!(agent.traces.put(&late, NOON_S, NOW_NS), None);

    let news = agent.traces.take_news();
    let [(key, status)] = &news[..] else { panic!("{news:?}") };
    assert_eq!((key, status.state), (&TraceKey::of(&late).unwrap(), TraceState::Refused));
    assert!(status.message.starts_with("this agent knows 4096 PacketTraces already"), "{}", status.message);
    let told = crate::kubernetes::packet_trace::PacketTraceStatus {
        agents: [(NODE.to_owned(), status.clone())].into(),
    };
    late.status = Some(told);
    agent.traces.put(&late, NOON_S, NOW_NS);
    assert_eq!(agent.state(), []);
}
