//! Elections where every flush takes long: one that is run over by the next elects nobody, and each costs every voter its
//! flushes again.

use super::*;

/// What a kill may cost: the winner's term, and one for each time that somebody was outranked.
const TERMS_A_KILL_MAX: u64 = 3;

impl Cluster {
    /// A node for each of these flushes, in milliseconds.
    async fn formed_on(flushes: &[u64]) -> Cluster {
        let mut cluster = Cluster::formed(flushes.len() as u64).await;
        for (n, flush) in (1..).zip(flushes) {
            cluster.kill(n);
            cluster.start_on(n, slow(Duration::from_millis(*flush)));
        }
        cluster
    }

    fn term(&self) -> u64 {
        self.nodes.values().map(|node| node.quorum.leadership().borrow().term).max().unwrap_or(0)
    }

    /// One that was started again calls itself the controller until it hears of a newer term.
    async fn newest_controller(&self) -> u64 {
        let deadline = clock::now() + PATIENCE;
        loop {
            let found = self.nodes.iter().find(|(_, node)| {
                let now = *node.quorum.leadership().borrow();
                now.is_controller && now.term == self.term()
            });
            if let Some((n, _)) = found {
                return *n;
            }
            assert!(clock::now() < deadline, "no controller within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Kills the controller; returns how many terms it took until another one could commit.
    async fn kill_controller(&mut self, round: usize, flushes: &[u64]) -> u64 {
        let index = self.commit(&format!("before {round}")).await;
        self.all_applied(index).await;
        let leader = self.newest_controller().await;
        let before = self.term();
        // Some kills fall into a write, so that the survivors' logs may differ.
        if round % 2 == 1 {
            let quorum = self.node(leader).clone();
            tokio::spawn(async move { quorum.propose(feature("in flight"), SHORT).await });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.kill(leader);
        let killed = clock::now();
        let next = self.newest_controller().await;
        let terms = self.term() - before;
        println!(
            "flushes of {flushes:?} ms: {leader} killed, {next} leads after {:?}, {terms} terms",
            killed.elapsed()
        );
        self.start_on(leader, slow(Duration::from_millis(flushes[leader as usize - 1])));
        terms
    }
}

async fn kills(rounds: usize, flushes: &[u64]) {
    let mut cluster = Cluster::formed_on(flushes).await;
    for round in 0..rounds {
        let terms = cluster.kill_controller(round, flushes).await;
        assert!(terms <= TERMS_A_KILL_MAX, "{terms} terms for one killed controller, flushes of {flushes:?} ms");
    }
}

#[tokio::test]
async fn a_killed_controller_costs_few_terms_where_flushes_are_slow() {
    kills(6, &[150, 150, 150]).await;
}

#[tokio::test]
async fn a_killed_controller_costs_few_terms_where_some_disks_are_slower_than_others() {
    kills(5, &[200, 1, 100]).await;
}

/// For a person to run: `cargo test --lib slow_disks -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "minutes: prints what a kill takes on many kinds of disks"]
async fn what_a_killed_controller_takes() {
    for flushes in [&[0, 0, 0][..], &[150, 150, 150], &[300, 300, 300], &[300, 1, 1], &[1, 1, 300], &[150; 5]] {
        kills(10, flushes).await;
    }
}
