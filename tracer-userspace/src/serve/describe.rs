//! What an agent says of its node, to whoever asks whether a follow will work, or which way packets would go.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tracer_common::ABI_VERSION;

use super::api::wire::{Description, Hook, PodPlace};
use super::subscribers::Identity;
use crate::follow::points;
use crate::host::kernel::{Feature, Kernel};
use crate::host::plan::{Scope, plan_points};
use crate::host::survey::{ProblemKind, Survey};
use crate::node::site::{Site, both_clocks_ns};
use crate::output::points::PointRow;
use crate::path::facts::{Half, Question};
use crate::path::look::{LookError, look};
use crate::trajectory::model::Direction;

/// Hooks that are told at most: each takes some 100 bytes.
const MOST_HOOKS: usize = 4096;
/// Descriptions, and halves of ways, that are made at a time: each looks over the machine.
const AT_A_TIME: usize = 2;

/// Makes descriptions.
pub struct Describer {
    kernel: Kernel,
    busy: Arc<Semaphore>,
}

impl Describer {
    #[must_use]
    pub fn new(kernel: &Kernel) -> Self {
        Self { kernel: kernel.clone(), busy: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// What is known without a look at the machine.
    #[must_use]
    pub fn outline(&self, identity: &Identity) -> Description {
        Description {
            tracer: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            node: identity.node.clone(),
            kernel_release: identity.kernel_release.clone(),
            boot_id: identity.boot_id.clone(),
            has_tcx: self.kernel.has(Feature::Tcx),
            lacks: self.kernel.lacks().map(|feature| feature.absence().to_owned()).collect(),
            ..Description::default()
        }
    }

    /// Completes an outline with what there is on the machine, and answers with it. The answer is dropped where too many
    /// ask at once.
    pub fn answer(&self, outline: Description, site: &Site, answer: oneshot::Sender<Description>) {
        let Ok(permit) = Arc::clone(&self.busy).try_acquire_owned() else { return };
        let (look, kernel) = (site.look_again(), self.kernel.clone());
        spawn_blocking(move || {
            let _permit = permit;
            let description = match look() {
                Ok(survey) => complete(outline, &survey, &kernel),
                Err(error) => Description { problems: vec![error.to_string()], ..outline },
            };
            // Whoever asked may have gone.
            let _ = answer.send(description);
        });
    }

    /// Reads the node's half of a way, and answers with it. The answer is dropped where too many ask at once.
    pub fn look(&self, question: Question, site: &Site, answer: oneshot::Sender<Result<Half, LookError>>) {
        let Ok(permit) = Arc::clone(&self.busy).try_acquire_owned() else { return };
        let (again, release) = (site.look_again(), self.kernel.release.clone());
        spawn_blocking(move || {
            let _permit = permit;
            let survey = again().map_err(|failure| LookError::Io(std::io::Error::other(failure.to_string())));
            // Whoever asked may have gone.
            let _ = answer.send(survey.and_then(|survey| look(&survey, &release, &question)));
        });
    }
}

/// Adds what a look over the machine has shown.
#[must_use]
pub fn complete(outline: Description, survey: &Survey, kernel: &Kernel) -> Description {
    let own = |node: &str| outline.node.is_empty() || node == outline.node;
    let problems = survey
        .problems
        .iter()
        .filter(|problem| problem.pod.is_none() && problem.kind != ProblemKind::Elsewhere);
    let mut planned = plan_points(survey, &Scope::everything());
    planned.retain(|device| own(&device.node));
    let hooks = points::rows(&planned, kernel).into_iter().take(MOST_HOOKS).map(hook);
    let (monotonic_ns, wall_ns) = both_clocks_ns();
    Description {
        pods_found: u32::try_from(survey.pods.iter().filter(|pod| !pod.host_network).count())
            .unwrap_or(u32::MAX),
        problems: problems.map(|problem| problem.sentence.clone()).collect(),
        places: places(survey),
        hooks: hooks.collect(),
        monotonic_ns,
        wall_ns,
        ..outline
    }
}

fn places(survey: &Survey) -> Vec<PodPlace> {
    let found = survey.pods.iter().map(|pod| PodPlace {
        pod: format!("{}/{}", pod.pod.namespace, pod.pod.name),
        evidence: pod.evidence.clone(),
        problems: survey.problems_of(&pod.pod).map(|problem| problem.sentence.clone()).collect(),
    });
    let is_missing = |problem: &&crate::host::survey::Problem| {
        let pod = problem.pod.as_deref();
        problem.kind != ProblemKind::Elsewhere && pod.is_some_and(|pod| survey.pod(pod).is_none())
    };
    let missing = survey.problems.iter().filter(is_missing).filter_map(|problem| {
        let pod = problem.pod.as_ref()?;
        Some(PodPlace {
            pod: format!("{}/{}", pod.namespace, pod.name),
            evidence: String::new(),
            problems: vec![problem.sentence.clone()],
        })
    });
    found.chain(missing).collect()
}

fn hook(row: PointRow) -> Hook {
    Hook {
        programs: row.others(),
        device: row.device,
        direction: match row.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
        .to_owned(),
        pod: row.pod.unwrap_or_default(),
        blind: row.blind.unwrap_or_default(),
    }
}
