//! The trouble: replicas killed, Postgres restarted, connections cut.

use std::{
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    random::Random,
    world::{REPLICAS, World},
};

/// What was done.
#[derive(Default)]
pub struct Trouble {
    kills: u32,
    restarts: u32,
    database_cuts: u32,
    acs_cuts: u32,
}

impl Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, restarts, database_cuts, acs_cuts } = self;
        write!(
            f,
            "{kills} kills, {restarts} restarts of Postgres, connections cut {database_cuts} times to it and {acs_cuts} to ACS"
        )
    }
}

/// Makes trouble until told to stop, then leaves everything running.
pub async fn run(world: Arc<World>, mut random: Random, stop: CancellationToken) -> Trouble {
    let mut trouble = Trouble::default();
    let mut revivals = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(random.between(300, 2500)) => {}
        }
        match random.below(10) {
            0..=4 => {
                let number = random.below(REPLICAS);
                world.kill(number);
                trouble.kills += 1;
                let (world, pause) = (Arc::clone(&world), random.between(50, 1500));
                revivals.spawn(async move {
                    sleep(pause).await;
                    world.revive(number);
                });
            }
            5..=6 => {
                world.postgres.cut();
                trouble.database_cuts += 1;
            }
            7..=8 => {
                world.acs.refuse(random.percent(50));
                world.acs.cut();
                trouble.acs_cuts += 1;
                sleep(Duration::from_millis(300)).await;
                world.acs.refuse(false);
            }
            _ => {
                world.restart_postgres().await;
                trouble.restarts += 1;
            }
        }
    }
    revivals.join_all().await;
    for number in 0..REPLICAS {
        world.revive(number);
    }
    trouble
}
