use super::*;

fn job(seal: u64) -> Job {
    Job {
        seal,
        process: Process::new(1),
        target: Target::Executable,
        version: None,
        slot: Weak::new(),
        commands: Commands::new().unwrap(),
    }
}

fn owner(cgroup: u64, uid: u32, binding: &str) -> Owner {
    (cgroup, uid, binding.into())
}

fn waiting(workers: usize, jobs: &[(&Owner, u64)]) -> State {
    let mut state = State {
        workers,
        ..State::default()
    };
    for (owner, seal) in jobs {
        let jobs = state.waiting.entry((*owner).clone()).or_default();
        jobs.push_back(job(*seal));
    }
    state
}

#[test]
fn turns_go_round() {
    let (one, two) = (owner(1, 0, "a"), owner(2, 0, "b"));
    let mut state = waiting(4, &[(&one, 1), (&one, 2), (&one, 3), (&two, 4), (&two, 5)]);
    let mut order = Vec::new();
    while let Some((_, job)) = state.next() {
        order.push(job.seal);
        state.running.clear();
    }
    assert_eq!(order, [1, 4, 2, 5, 3]);
}

fn give(state: &mut State, owner: &Owner, seal: u64) {
    let jobs = state.waiting.entry(owner.clone()).or_default();
    jobs.push_back(job(seal));
}

fn turn(state: &mut State) -> Option<u64> {
    state.next().map(|(_, job)| job.seal)
}

#[test]
fn no_binding_delays_another() {
    let (one, other) = (owner(1, 5, "a"), owner(1, 5, "b"));
    let mut state = waiting(4, &[(&one, 1), (&one, 2), (&one, 3), (&one, 4)]);
    assert_eq!((turn(&mut state), turn(&mut state)), (Some(1), Some(2)));
    assert_eq!(turn(&mut state), None);
    give(&mut state, &other, 5);
    assert_eq!(turn(&mut state), Some(5));
}

#[test]
fn nobody_has_all_threads() {
    let same = [
        [
            owner(1, 5, "a"),
            owner(1, 6, "b"),
            owner(1, 7, "c"),
            owner(1, 8, "d"),
        ],
        [
            owner(1, 5, "a"),
            owner(2, 5, "b"),
            owner(3, 5, "c"),
            owner(4, 5, "d"),
        ],
    ];
    for owners in same {
        let mut state = waiting(4, &[]);
        for (seal, owner) in (1..).zip(&owners) {
            give(&mut state, owner, seal);
        }
        for _ in 0..3 {
            assert!(turn(&mut state).is_some());
        }
        assert_eq!(turn(&mut state), None, "{owners:?}");
        give(&mut state, &owner(9, 9, "e"), 9);
        assert_eq!(turn(&mut state), Some(9));
    }
    // root is root of many containers
    let mut state = waiting(4, &[]);
    for (seal, binding) in (1..).zip(["a", "b", "c", "d"]) {
        give(&mut state, &owner(seal, 0, binding), seal);
    }
    assert_eq!((0..4).filter_map(|_| turn(&mut state)).count(), 4);
}
