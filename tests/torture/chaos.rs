//! The faults: replicas killed, Postgres restarted, connections cut or silent.

use std::{
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    proxy::Mode,
    random::Random,
    world::{REPLICAS, World},
};

/// What was done.
#[derive(Default)]
pub struct Faults {
    kills: u32,
    restarts: u32,
    database_cuts: u32,
    silences: u32,
    acs_cuts: u32,
}

impl Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, restarts, database_cuts, silences, acs_cuts } = self;
        write!(
            f,
            "{kills} kills, {restarts} restarts of Postgres, {database_cuts} cuts and {silences} silences of it, {acs_cuts} cuts of ACS"
        )
    }
}

/// Makes faults until it is stopped, then leaves everything running.
pub async fn run(world: Arc<World>, mut random: Random, stop: CancellationToken) -> Faults {
    let mut faults = Faults::default();
    let mut revivals = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(random.between(300, 2500)) => {}
        }
        match random.below(10) {
            0..=3 => {
                let number = random.below(REPLICAS);
                world.kill(number);
                faults.kills += 1;
                let (world, pause) = (Arc::clone(&world), random.between(50, 1500));
                revivals.spawn(async move {
                    sleep(pause).await;
                    world.revive(number);
                });
            }
            4 => {
                world.postgres.cut();
                faults.database_cuts += 1;
            }
            5..=6 => {
                world.postgres.set(Mode::Silent);
                sleep(random.between(100, 1500)).await;
                world.postgres.set(Mode::Forward);
                if random.percent(50) {
                    world.postgres.mute();
                }
                faults.silences += 1;
            }
            7..=8 => {
                world.acs.set(if random.percent(50) { Mode::Refuse } else { Mode::Forward });
                world.acs.cut();
                faults.acs_cuts += 1;
                sleep(Duration::from_millis(300)).await;
                world.acs.set(Mode::Forward);
            }
            _ => {
                world.restart_postgres().await;
                faults.restarts += 1;
            }
        }
    }
    revivals.join_all().await;
    for number in 0..REPLICAS {
        world.revive(number);
    }
    faults
}
