//! Whatever members, the quorum and coordinators do: what is counted is right, and what is committed is what is.

use super::golden::{Harness, Line, RULES};
use crate::group::machine::Millis;
use crate::group::settings::Rules;
use crate::metadata::group_change::GroupMember;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What happens, as a line of a script; empty where it cannot happen now.
fn line(harness: &Harness, kind: u8, who: usize, what: u8) -> String {
    let group = &harness.group;
    let ids: Vec<&String> = group.members.keys().chain(group.pending.keys()).collect();
    let known = || ids.get(who % ids.len().max(1)).map_or("nobody", |id| id.as_str());
    let instance = |id: &str| {
        let instance = group.members.get(id).and_then(|member| member.instance.as_ref());
        instance.map(|instance| format!(" instance={instance}")).unwrap_or_default()
    };
    let generation = group.generation - i32::from(what == 0);
    match kind {
        0 => format!("join c v=3 with=range:{what},rr:x"),
        1 => format!("join d v=4 with=rr:{what}"),
        2 => format!("join s{0} instance=S{0} v=9 with=range:{what},rr:y", who % 2),
        3 | 4 => format!("join e as={}{} v=5 with=range:{what},rr:x", known(), instance(known())),
        5..=7 => {
            let leader = group.leader.as_deref().filter(|_| kind == 5).unwrap_or(known());
            let given: Vec<String> = group.members.keys().map(|id| format!("{id}:p{}", what / 2)).collect();
            format!("sync {leader}{} gen={generation} give={}", instance(leader), given.join(","))
        }
        8 => format!("heartbeat {}{} gen={generation}", known(), instance(known())),
        9 => format!("leave as={}{}", known(), instance(known())),
        10..=12 if harness.wanted.is_some() => "committed".into(),
        13 if harness.wanted.is_some() && what < 2 => "commit-fails".into(),
        13 if harness.wanted.is_some() => "answer-lost".into(),
        14 if harness.wanted.is_some() => "torn".into(),
        15 if harness.stored.is_some() => "coordinator-moves".into(),
        16 => "tick".into(),
        _ => String::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_committed_is_what_is(
        events in prop::collection::vec((0..17u8, 0..5usize, 0..4u8, prop::sample::select(vec![1, 10, 3_000, 9_000])), 1..120),
    ) {
        let mut harness = Harness::new(Rules { initial_delay_ms: 0, group_size_max: 4, ..RULES });
        let mut now: Millis = 0;
        for (kind, who, what, passes) in events {
            now += passes;
            let line = line(&harness, kind, who, what);
            if line.is_empty() {
                continue;
            }
            let is_told = line == "committed" || line == "coordinator-moves";
            // Checks the counts.
            harness.run(now, &Line { words: line.split_whitespace().collect() });
            if !is_told || !harness.group.draft.is_settled() {
                continue;
            }
            let stored = harness.stored.as_ref().expect("something was committed");
            let in_image: BTreeMap<_, GroupMember> =
                stored.members.iter().map(|(id, member)| (id.clone(), (**member).clone())).collect();
            let members = harness.group.members.iter();
            let in_memory: BTreeMap<_, GroupMember> =
                members.map(|(id, member)| (id.clone(), member.stored(member.assignment.clone()))).collect();
            prop_assert_eq!(in_image, in_memory, "after {}", harness.out);
        }
    }
}
