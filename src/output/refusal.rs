//! Refusals in words: which claim, what stood in the way, by how much, and who took the room.

mod obstacle;

use plenum_proto::v1::{
    Culprit, CulpritView, HeldView, NotWantedCause, Refusal, RefusalKind, RefusalReason, TransactionView,
};
use serde_json::{Value, json};

use super::{
    allocation::{allocation_id, transaction_id},
    job::{full_name_called, parts_of_full_name},
    or_null,
    quantity::{json_time, named_amount, resource_key},
    seen::given_name_of,
};
use obstacle::obstacle;

/// Names for the numbers in a transaction's refusals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'view>(pub(crate) &'view TransactionView);

impl<'view> Names<'view> {
    /// "namespace/job"; its id where the name is not known any more.
    pub(super) fn job(self, bits: u64) -> String {
        let id = || plenum_model::JobId::from_bits(bits).map_or_else(|| "-".to_owned(), |id| id.to_string());
        self.0.job_names.get(&bits).cloned().unwrap_or_else(id)
    }

    pub(super) fn group(self, job: u64, group: u32) -> String {
        let key = format!("{job}/{group}");
        self.0.group_names.get(&key).cloned().unwrap_or_else(|| format!("group {group}"))
    }

    /// Who held the room that a claim lacked, where it would not have lacked it without that.
    fn held(self, refusal: &Refusal) -> Option<&'view HeldView> {
        let held = &self.0.held;
        let found = held.binary_search_by_key(&(refusal.placement, refusal.claim), |held| (held.placement, held.claim));
        held.get(found.ok()?)
    }

    /// Whose a culprit's allocation is.
    fn tenant(self, allocation: u64) -> Option<&'view CulpritView> {
        self.culprit(allocation, 0).filter(|_| allocation != 0)
    }

    /// Who asked for a culprit that is an event; nobody for one that is a transaction.
    fn event(self, culprit: &Culprit) -> Option<&'view CulpritView> {
        self.culprit(0, culprit.revision).filter(|_| culprit.session == 0)
    }

    /// They come by allocation and revision, of which each has one.
    fn culprit(self, allocation: u64, revision: u64) -> Option<&'view CulpritView> {
        let told = &self.0.culprits;
        told.get(told.binary_search_by_key(&(allocation, revision), |told| (told.allocation, told.revision)).ok()?)
    }

    fn machine(self, refusal: &Refusal) -> String {
        self.machine_called(refusal.machine)
    }

    pub(crate) fn machine_called(self, slot: u32) -> String {
        self.0.machine_names.get(&slot).cloned().unwrap_or_else(|| format!("machine {slot}"))
    }
}

/// True for a guard on the whole transaction, which belongs to no claim.
fn is_whole(refusal: &Refusal) -> bool {
    refusal.placement == u32::MAX
}

/// The refusal as one sentence.
pub(crate) fn sentence(names: Names<'_>, refusal: &Refusal) -> String {
    let mut text = place(names, refusal);
    text.push_str(&format!(": {}, {}", kind_name(refusal.kind()), obstacle(names, refusal)));
    let culprits = by_whom(refusal);
    let mut taken: Vec<String> = culprits.iter().map(|culprit| culprit_words(names, refusal, culprit)).collect();
    let unlisted = unlisted_amount(refusal);
    if unlisted > 0 {
        taken.push(format!("and others ({})", in_smallest_unit(refusal, unlisted)));
    }
    if !taken.is_empty() {
        let is_taken = matches!(refusal.reason(), RefusalReason::NoRoom | RefusalReason::DeviceTaken);
        let verb = if is_taken { "taken by" } else { "because of" };
        text.push_str(&format!("; {verb} {}", taken.join(", ")));
    }
    text
}

/// A culprit, and with how many others of its transaction: every task that it placed there is one, and took a part.
struct Taker {
    /// The amount is that of all of them.
    culprit: Culprit,
    allocations: Vec<u64>,
}

/// The culprits, each transaction once.
fn by_whom(refusal: &Refusal) -> Vec<Taker> {
    let mut all: Vec<Taker> = Vec::new();
    for culprit in &refusal.culprits {
        let is_same = |taker: &&mut Taker| {
            let other = &taker.culprit;
            (other.revision, other.session, other.number) == (culprit.revision, culprit.session, culprit.number)
                && other.event == culprit.event
        };
        let own = Some(culprit.allocation).filter(|&allocation| allocation != 0);
        match all.iter_mut().find(is_same) {
            Some(known) => {
                known.culprit.amount = known.culprit.amount.saturating_add(culprit.amount);
                known.allocations.extend(own);
            }
            None => all.push(Taker { culprit: culprit.clone(), allocations: own.into_iter().collect() }),
        }
    }
    all
}

/// Which claim it is about.
fn place(names: Names<'_>, refusal: &Refusal) -> String {
    if is_whole(refusal) {
        return "the whole transaction".to_owned();
    }
    let job = full_name_called(&names.job(refusal.job));
    let several = names.0.outcome.as_ref().is_some_and(|outcome| outcome.placements.len() > 1);
    let placement = if several { format!("placement {}, ", refusal.placement) } else { String::new() };
    format!(
        "{placement}claim {}: task {job}/{}[{}] on {}",
        refusal.claim,
        names.group(refusal.job, refusal.group),
        refusal.task,
        names.machine(refusal)
    )
}

/// What culprits beyond the listed ones took, in the unit of what was short.
fn unlisted_amount(refusal: &Refusal) -> i64 {
    let listed: i64 = refusal.culprits.iter().map(|culprit| culprit.amount).fold(0, i64::saturating_add);
    refusal.culprits_total.saturating_sub(listed).max(0)
}

fn culprit_words(names: Names<'_>, refusal: &Refusal, taker: &Taker) -> String {
    let culprit = &taker.culprit;
    let event = names.event(culprit);
    let who = match culprit_transaction(culprit) {
        Some(transaction) => format!("{transaction} (scheduler {}, ", culprit.scheduler),
        None => format!("{} (", event_words(culprit, event)),
    };
    let by = event.map_or("", |event| event.principal.as_str());
    let by = if by.is_empty() { String::new() } else { format!(", by {by}") };
    let amount = match culprit.amount {
        0 => String::new(),
        amount => format!(", {}", in_smallest_unit(refusal, amount)),
    };
    let tasks: Vec<String> = taker.allocations.iter().map(|&allocation| task_words(names, allocation)).collect();
    let tasks = if tasks.is_empty() { String::new() } else { format!(" for {}", tasks.join(" and ")) };
    format!("{who}revision {}{by}{amount}{tasks})", culprit.revision)
}

/// An allocation with its task, where that is known.
fn task_words(names: Names<'_>, allocation: u64) -> String {
    let id = allocation_id(allocation);
    match names.tenant(allocation) {
        Some(CulpritView { job, group, task, .. }) => format!("{}/{group}[{task}] as {id}", full_name_called(job)),
        None => id,
    }
}

/// What happened, in words that go with "taken by" and "because of".
fn event_words(culprit: &Culprit, event: Option<&CulpritView>) -> String {
    let words = match culprit.event.as_str() {
        "registered" => "the machine's registration",
        "epoch" => "a new registration of the machine",
        "capacity" => "a change of the machine's capacity",
        "attributes" => "a change of the machine's attributes",
        "cordoned" => "a cordon of the machine",
        "draining" => "a drain of the machine",
        "expired" => "the end of the machine's lease",
        "ready" => "the return of the machine",
        "removed" => "the removal of the machine",
        "hold" => match event.map(|event| full_name_called(&event.job)).filter(|job| !job.is_empty()) {
            Some(job) => return format!("a hold of {job}"),
            None => "a hold",
        },
        "unknown task" => "a task on the machine that the cell does not know",
        "unknown task ended" => "the end of a task that the cell does not know",
        "successor ended" => "the end of who had taken over room there",
        "submitted" => "a submission of the job",
        "over" => "the end of the job",
        "group" => "another count of the group",
        "task" => "the end of a task of the job",
        "home" => "another machine for the job's tasks to share",
        "retired" => "the job's retirement",
        "leaving" => "a task's predecessor that began to leave",
        "backoff" => "a failure in the group",
        "undone" => "a group that is done no more",
        // Of a later server.
        other => return format!("the machine's or job's change `{other}`"),
    };
    words.to_owned()
}

/// CPU and devices always in thousandths here: what was short and what was taken are easier to add up in one unit.
fn in_smallest_unit(refusal: &Refusal, amount: i64) -> String {
    match refusal.resource() {
        _ if refusal.reason() == RefusalReason::DeviceTaken => format!("{amount}m"),
        plenum_proto::v1::ResourceName::CpuMillis => format!("{amount}m"),
        resource => named_amount(resource, amount).1,
    }
}

/// The culprit's transaction; none when it was an event.
fn culprit_transaction(culprit: &Culprit) -> Option<String> {
    (culprit.session != 0).then(|| transaction_id(culprit.session, culprit.number))
}

/// The kind as programs read it.
fn kind_name(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Unspecified => "unknown",
        RefusalKind::Conflict => "conflict",
        RefusalKind::Misfit => "misfit",
        RefusalKind::Stale => "stale",
        RefusalKind::Mate => "mate",
        RefusalKind::Guard => "guard",
        RefusalKind::Quota => "quota",
        RefusalKind::Permission => "permission",
    }
}

fn culprit_json(names: Names<'_>, culprit: &Culprit) -> Value {
    let mut object = json!({
        "revision": culprit.revision,
        "scheduler": or_null(&culprit.scheduler),
        "amount": culprit.amount,
    });
    let told = match culprit_transaction(culprit) {
        Some(transaction) => {
            object["transaction"] = json!(transaction);
            names.tenant(culprit.allocation)
        }
        None => {
            object["event"] = json!(culprit.event);
            names.event(culprit)
        }
    };
    if culprit.allocation != 0 {
        object["allocation"] = json!(allocation_id(culprit.allocation));
    }
    let Some(told) = told else { return object };
    if !told.job.is_empty() {
        let (namespace, job) = parts_of_full_name(&told.job);
        (object["namespace"], object["job"]) = (or_null(namespace), json!(job));
    }
    if told.allocation != 0 {
        (object["group"], object["task_index"]) = (json!(told.group), json!(told.task));
    } else {
        object["principal"] = or_null(&told.principal);
    }
    object
}

/// The refusal as programs read it.
pub(super) fn refusal_json(names: Names<'_>, refusal: &Refusal) -> Value {
    let is_short = matches!(refusal.reason(), RefusalReason::NoRoom | RefusalReason::QuotaExceeded);
    let is_device = !refusal.device.is_empty();
    let cause = Some(refusal.not_wanted()).filter(|cause| *cause != NotWantedCause::Unspecified);
    let culprits: Vec<Value> = refusal.culprits.iter().map(|culprit| culprit_json(names, culprit)).collect();
    let claim = |value: Value| if is_whole(refusal) { Value::Null } else { value };
    let full_name = names.job(refusal.job);
    // An id has no namespace.
    let (namespace, job) = parts_of_full_name(&full_name);
    json!({
        "placement": claim(json!(refusal.placement)),
        "claim": claim(json!(refusal.claim)),
        "namespace": claim(or_null(namespace)),
        "job": claim(json!(job)),
        "group": claim(json!(names.group(refusal.job, refusal.group))),
        "task_index": claim(json!(refusal.task)),
        "machine": claim(json!(names.machine(refusal))),
        "kind": kind_name(refusal.kind()),
        "reason": refusal.reason().as_str_name(),
        "resource": resource_key(refusal.resource()),
        "resource_name": given_name_of(refusal.resource()),
        "short_by": if is_short { json!(refusal.short_by) } else { Value::Null },
        "not_wanted": cause.map(|cause| cause.as_str_name()),
        "after_group": (cause == Some(NotWantedCause::AfterGroup)).then(|| names.group(refusal.job, refusal.after_group)),
        "backoff_until": json_time(refusal.backoff_until_micros),
        "device": or_null(&refusal.device),
        "device_short_by_millis": if is_device { json!(refusal.device_short_by_millis) } else { Value::Null },
        "port": (refusal.port > 0).then_some(refusal.port),
        "held": names.held(refusal).map(|held| json!({ "amount": held.amount, "jobs": held.jobs })),
        "culprit": culprits.first().cloned(),
        "culprits": culprits,
        "culprits_total": refusal.culprits_total,
        "message": sentence(names, refusal),
    })
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::ResourceName;

    use super::*;

    fn view() -> TransactionView {
        TransactionView {
            job_names: [(7, "default/shop".to_owned())].into(),
            group_names: [("7/0".to_owned(), "web".to_owned())].into(),
            machine_names: [(1, "machine-1".to_owned())].into(),
            ..TransactionView::default()
        }
    }

    fn refusal() -> Refusal {
        Refusal {
            kind: RefusalKind::Conflict.into(),
            reason: RefusalReason::NoRoom.into(),
            claim: 3,
            job: 7,
            task: 2,
            machine: 1,
            resource: ResourceName::CpuMillis.into(),
            short_by: 500,
            culprits: vec![Culprit {
                revision: 41,
                session: 12,
                number: 7,
                scheduler: "blue".to_owned(),
                amount: 1000,
                ..Culprit::default()
            }],
            culprits_total: 1000,
            ..Refusal::default()
        }
    }

    #[test]
    fn a_lost_race_names_its_culprit() {
        assert_eq!(
            sentence(Names(&view()), &refusal()),
            "claim 3: task shop/web[2] on machine-1: conflict, cpu short by 500m; taken by txn-12-7 (scheduler blue, \
             revision 41, 1000m)"
        );
    }

    // Of jobs of one name in two namespaces nobody could tell which had lost.
    #[test]
    fn a_refusal_names_its_jobs_namespace_unless_that_is_the_usual_one() {
        let refused = |full: &str| {
            let view = TransactionView { job_names: [(7, full.to_owned())].into(), ..view() };
            let object = refusal_json(Names(&view), &refusal());
            (sentence(Names(&view), &refusal()), object["namespace"].clone(), object["job"].clone())
        };
        let (text, namespace, job) = refused("data/shop");
        assert!(text.starts_with("claim 3: task data/shop/web[2] on machine-1: "), "{text}");
        assert_eq!((namespace, job), (json!("data"), json!("shop")));
        let (text, namespace, job) = refused("default/shop");
        assert!(text.starts_with("claim 3: task shop/web[2] on machine-1: "), "{text}");
        assert_eq!((namespace, job), (json!("default"), json!("shop")));
        let forgotten = refusal_json(Names(&TransactionView::default()), &refusal());
        assert_eq!(forgotten["namespace"], Value::Null);
    }

    // It fitted on the machine as every list showed that, and the scheduler was told that it has a bug.
    #[test]
    fn a_refusal_for_room_that_others_held_says_who_did() {
        let misfit = Refusal {
            kind: RefusalKind::Misfit.into(),
            short_by: 5,
            culprits: Vec::new(),
            culprits_total: 0,
            ..refusal()
        };
        let told = |claim: u32, jobs_total: u32| {
            let jobs = vec!["gold/royal".to_owned(), "default/web".to_owned()];
            let held = HeldView { placement: 0, claim, amount: 270, jobs, jobs_total };
            let view = TransactionView { held: vec![held], ..view() };
            let (text, object) = (sentence(Names(&view), &misfit), refusal_json(Names(&view), &misfit));
            (text.split_once(": misfit, ").unwrap().1.to_owned(), object["held"].clone())
        };
        let (text, held) = told(3, 1);
        assert_eq!(text, "cpu short by 5m, where gold/royal held 270m");
        assert_eq!(held, json!({"amount": 270, "jobs": ["gold/royal", "default/web"]}));
        assert_eq!(told(3, 3).0, "cpu short by 5m, where gold/royal and 2 other jobs held 270m");
        assert_eq!(told(2, 1), ("cpu short by 5m".to_owned(), Value::Null), "another claim's");
    }

    // Of one that had placed two tasks there it said `txn-12-7 (…, 1000m), txn-12-7 (…, 1000m)`.
    #[test]
    fn a_culprit_that_placed_several_tasks_is_named_once() {
        let mut refusal = Refusal { culprits_total: 3500, ..refusal() };
        let other = Culprit { number: 9, revision: 40, ..refusal.culprits[0].clone() };
        refusal.culprits = vec![refusal.culprits[0].clone(), other, refusal.culprits[0].clone()];
        let text = sentence(Names(&view()), &refusal);
        assert!(
            text.ends_with(
                "taken by txn-12-7 (scheduler blue, revision 41, 2000m), txn-12-9 (scheduler blue, revision 40, 1000m), \
                 and others (500m)"
            ),
            "{text}"
        );
    }

    #[test]
    fn culprits_beyond_the_listed_ones_are_summed_up() {
        let text = sentence(Names(&view()), &Refusal { culprits_total: 2500, ..refusal() });
        assert!(text.ends_with("1000m), and others (1500m)"), "{text}");
    }

    // Whose job it was that took the room was asked for in two more commands.
    #[test]
    fn a_culprit_is_named_with_its_tasks() {
        let (first, second) = (1 << 32 | 3, 1 << 32 | 4);
        let tenant = CulpritView {
            allocation: first,
            job: "ml/quick".to_owned(),
            group: "g".to_owned(),
            task: 2,
            ..CulpritView::default()
        };
        let view = TransactionView { culprits: vec![tenant], ..view() };
        let culprit = |allocation| Culprit { allocation, ..refusal().culprits.remove(0) };
        let refusal = Refusal { culprits: vec![culprit(first), culprit(second)], culprits_total: 2000, ..refusal() };
        let text = sentence(Names(&view), &refusal);
        let expected =
            "taken by txn-12-7 (scheduler blue, revision 41, 2000m for ml/quick/g[2] as alloc-3-1 and alloc-4-1)";
        assert!(text.ends_with(expected), "{text}");
        let object = refusal_json(Names(&view), &refusal);
        let (known, other) = (&object["culprits"][0], &object["culprits"][1]);
        assert_eq!(
            (&known["namespace"], &known["job"], &known["task_index"]),
            (&json!("ml"), &json!("quick"), &json!(2))
        );
        assert_eq!((&other["allocation"], &other["job"]), (&json!("alloc-4-1"), &Value::Null));
    }

    // It was told by a word in quotes, and who had done it by nothing.
    #[test]
    fn an_event_is_a_culprit_too() {
        let told = |event: &str, asked: Option<CulpritView>| {
            let culprit = Culprit { revision: 9, event: event.to_owned(), ..Culprit::default() };
            let reason = RefusalReason::MachineNotReady.into();
            let refusal = Refusal { culprits: vec![culprit], culprits_total: 0, reason, ..refusal() };
            let view = TransactionView { culprits: asked.into_iter().collect(), ..view() };
            let text = sentence(Names(&view), &refusal);
            let principal = refusal_json(Names(&view), &refusal)["culprit"]["principal"].clone();
            (text.split_once("because of ").unwrap().1.to_owned(), principal)
        };
        let by = |principal: &str, job: &str| {
            let (principal, job) = (principal.to_owned(), job.to_owned());
            Some(CulpritView { revision: 9, principal, job, ..CulpritView::default() })
        };
        assert_eq!(told("cordoned", None), ("a cordon of the machine (revision 9)".to_owned(), Value::Null));
        let expected = "a cordon of the machine (revision 9, by alice)".to_owned();
        assert_eq!(told("cordoned", by("alice", "")), (expected, json!("alice")));
        assert_eq!(told("hold", by("bob", "gold/royal")).0, "a hold of gold/royal (revision 9, by bob)");
        assert_eq!(told("later", None).0, "the machine's or job's change `later` (revision 9)");
    }

    // It said that the device was taken: not which kind, nor how much of it was missing.
    #[test]
    fn a_refusal_for_want_of_devices_says_how_much_was_missing() {
        let reason = RefusalReason::DeviceTaken.into();
        let resource = ResourceName::Unspecified.into();
        let refusal = Refusal { reason, resource, short_by: 0, ..refusal() };
        let short = Refusal { device: "gpu".to_owned(), device_short_by_millis: 750, ..refusal.clone() };
        let text = sentence(Names(&view()), &short);
        assert!(
            text.ends_with("conflict, gpu short by 750m; taken by txn-12-7 (scheduler blue, revision 41, 1000m)"),
            "{text}"
        );
        let object = refusal_json(Names(&view()), &short);
        assert_eq!((&object["device"], &object["device_short_by_millis"]), (&json!("gpu"), &json!(750)));
        // The claim named a device that the machine does not have enough of, while others would do.
        let text = sentence(Names(&view()), &refusal);
        assert!(text.contains("conflict, the device is taken;"), "{text}");
        assert_eq!(refusal_json(Names(&view()), &refusal)["device_short_by_millis"], Value::Null);
    }

    // On a machine with as many allocations as one may have it spoke of tasks of the group, which had no limit.
    #[test]
    fn a_refusal_for_a_limit_of_a_machine_speaks_of_the_group_and_of_all_that_is_there() {
        let reason = RefusalReason::PerMachineLimit.into();
        let text = sentence(Names(&view()), &Refusal { reason, ..refusal() });
        let expected =
            "conflict, as many tasks of the group, or allocations in all, as one machine may have are there;";
        assert!(text.contains(expected), "{text}");
    }

    // It said that the port was taken, and not which one.
    #[test]
    fn a_refusal_for_a_port_says_which_one_it_was() {
        let (reason, resource) = (RefusalReason::PortTaken.into(), ResourceName::Unspecified.into());
        let fixed = Refusal { reason, resource, short_by: 0, port: 9445, ..refusal() };
        let text = sentence(Names(&view()), &fixed);
        assert!(text.contains("conflict, port 9445 is taken;"), "{text}");
        assert_eq!(refusal_json(Names(&view()), &fixed)["port"], json!(9445));
        let any = Refusal { port: 0, ..fixed };
        let text = sentence(Names(&view()), &any);
        assert!(text.contains("conflict, no port is left of those that the cell chooses from;"), "{text}");
        assert_eq!(refusal_json(Names(&view()), &any)["port"], Value::Null);
    }

    // It said that the principal may not do this, and people looked at roles and rights.
    #[test]
    fn a_claim_on_a_machine_that_a_partition_keeps_for_others_is_told_so() {
        let (reason, kind) = (RefusalReason::NotPermitted.into(), RefusalKind::Permission.into());
        let refused = Refusal { reason, kind, culprits: Vec::new(), culprits_total: 0, ..refusal() };
        let text = sentence(Names(&view()), &refused);
        let words = ": permission, a partition reserves the machine for other schedulers (plenum partition list)";
        assert!(text.ends_with(words), "{text}");
    }

    // It said that the device was taken, which nobody had.
    #[test]
    fn a_claim_that_names_a_device_of_another_model_is_told_so() {
        let (reason, kind) = (RefusalReason::DeviceTaken.into(), RefusalKind::Misfit.into());
        let resource = ResourceName::Unspecified.into();
        let misfit = Refusal { reason, kind, resource, device: "gpu".to_owned(), short_by: 0, ..refusal() };
        let never = Refusal { culprits: Vec::new(), culprits_total: 0, ..misfit.clone() };
        let text = sentence(Names(&view()), &never);
        assert!(text.ends_with(": misfit, the gpu there is not of the model that is asked for"), "{text}");
        let lost = sentence(Names(&view()), &misfit);
        assert!(lost.contains(": misfit, the device is taken; taken by"), "{lost}");
    }

    // Of a claim that named a port of its own it said that its resources differed, which it had not named.
    #[test]
    fn what_differs_from_what_a_job_declares_is_told_where_it_is_known_what_was_asked() {
        use plenum_proto::v1::{ClaimExtras, Device, Placement, Port, Resources, Transaction};
        let refusal = Refusal {
            reason: RefusalReason::ResourcesDiffer.into(),
            kind: RefusalKind::Misfit.into(),
            claim: 1,
            culprits: Vec::new(),
            culprits_total: 0,
            ..refusal()
        };
        let told = |placement: Option<Placement>| {
            let asked =
                placement.map(|placement| Transaction { placements: vec![placement], ..Transaction::default() });
            let text = sentence(Names(&TransactionView { transaction: asked, ..view() }), &refusal);
            text.split_once(": misfit, ").unwrap().1.to_owned()
        };
        let either = "the resources, or the devices or ports that it names, differ from what the job declares";
        assert_eq!(told(None), either, "of a listing");
        let resources = Some(Resources::default());
        let plain = Placement { resources, ..Placement::default() };
        assert_eq!(told(Some(plain.clone())), "the resources differ from what the job declares");
        let gpu = Device { kind: "gpu".to_owned(), index: 1, millis: 500, model: "h100".to_owned() };
        let ports = vec![Port { name: "http".to_owned(), number: 8080 }];
        let extras = vec![ClaimExtras::default(), ClaimExtras { devices: vec![gpu], ports, ..Default::default() }];
        let named = "it names 500m of gpu[1] h100, ports http=8080, which differs from what its group declares";
        assert_eq!(told(Some(Placement { extras: extras.clone(), ..Placement::default() })), named);
        let both = told(Some(Placement { extras, ..plain }));
        assert_eq!(both, format!("the resources differ from what the job declares, or {named}"));
    }

    // All that a task may not be placed for was told in the same words.
    #[test]
    fn a_task_that_may_not_be_placed_has_a_cause() {
        let refusal = |cause: NotWantedCause| Refusal {
            reason: RefusalReason::NotWanted.into(),
            kind: RefusalKind::Misfit.into(),
            resource: ResourceName::Unspecified.into(),
            short_by: 0,
            culprits: Vec::new(),
            culprits_total: 0,
            not_wanted: cause.into(),
            ..refusal()
        };
        let text = |refusal: &Refusal| sentence(Names(&view()), refusal);
        let done = refusal(NotWantedCause::TaskIsDone);
        assert_eq!(text(&done), "claim 3: task shop/web[2] on machine-1: misfit, the task is done");
        let object = refusal_json(Names(&view()), &done);
        assert_eq!(
            (&object["not_wanted"], &object["after_group"], &object["backoff_until"]),
            (&json!("TASK_IS_DONE"), &Value::Null, &Value::Null)
        );
        let after = Refusal { group: 1, after_group: 0, ..refusal(NotWantedCause::AfterGroup) };
        assert!(text(&after).ends_with("misfit, web must be done first"), "{}", text(&after));
        assert_eq!(refusal_json(Names(&view()), &after)["after_group"], json!("web"));
        let backoff = Refusal { backoff_until_micros: 7_000_000, ..refusal(NotWantedCause::InBackoff) };
        assert!(text(&backoff).ends_with("waits after a failure until 1970-01-01T00:00:07Z"), "{}", text(&backoff));
        assert_eq!(refusal_json(Names(&view()), &backoff)["backoff_until"], json!("1970-01-01T00:00:07Z"));
    }

    // One that no task of the group was on was told to have as many as its spread allows.
    #[test]
    fn a_refusal_for_spread_may_be_of_a_machine_without_the_attribute() {
        let refusal = Refusal {
            kind: RefusalKind::Misfit.into(),
            reason: RefusalReason::SpreadLimit.into(),
            job: 7,
            machine: 1,
            ..Refusal::default()
        };
        let text = sentence(Names(&view()), &refusal);
        assert!(text.ends_with("its spread allows are there, or the machine lacks the attribute"), "{text}");
    }

    #[test]
    fn a_guard_on_the_transaction_belongs_to_no_claim() {
        let refusal = Refusal {
            kind: RefusalKind::Guard.into(),
            reason: RefusalReason::GuardFailed.into(),
            placement: u32::MAX,
            claim: u32::MAX,
            ..Refusal::default()
        };
        assert_eq!(sentence(Names(&view()), &refusal), "the whole transaction: guard, a guard failed");
        assert_eq!(refusal_json(Names(&view()), &refusal)["claim"], Value::Null);
    }

    #[test]
    fn programs_read_every_promised_field() {
        let object = refusal_json(Names(&view()), &refusal());
        for field in [
            "namespace",
            "job",
            "group",
            "task_index",
            "machine",
            "kind",
            "reason",
            "resource",
            "short_by",
            "culprit",
            "culprits",
            "culprits_total",
        ] {
            assert!(!object[field].is_null(), "{field}");
        }
        assert_eq!(object["culprit"]["transaction"], "txn-12-7");
        assert_eq!((&object["reason"], &object["resource"]), (&json!("NO_ROOM"), &json!("cpu_millis")));
    }
}
