//! `highwater broker`: list, drain, undrain, remove.

use super::moves::{self, Left};
use super::output::{self, Format, Table, or_dash};
use super::reach::{self, BrokersClient, Reach, ReassignmentsClient};
use crate::admin::proto::{
    BrokerSummary, ListBrokersRequest, ListReassignmentsRequest, Liveness, MoveAwayRequest, Reassignment,
    SetDrainingRequest, UnregisterBrokerRequest,
};
use clap::{Args, Subcommand};
use serde_json::json;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const LINE_EVERY: Duration = Duration::from_secs(1);
/// Nodes that do not answer, one after the other, before the watching is given up.
const FAILURES_MAX: u32 = 10;

/// List brokers, take them out of service, and out of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater broker list
  highwater broker drain 3        all leaders move away and none come back; what it holds stays in sync
  highwater broker undrain 3
  highwater broker remove 3       moves its replicas elsewhere, a line a second, then forgets it
  highwater broker remove 3 --cancel")]
pub struct Broker {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who is alive, what each leads and holds
    List,
    /// Move all leaders off a broker; none come back, and no new replicas are placed there
    Drain { broker: i32 },
    /// Let a drained broker lead and take replicas again
    Undrain { broker: i32 },
    /// Move every replica off a broker, alive or dead, then forget it
    ///
    /// Ctrl-C ends the watching, not the moving: the same command goes on with it, and --cancel undoes it.
    ///
    /// A live broker is forgotten only once its process is stopped: when nothing is left on it, the command says so and
    /// waits. Stop the process then (a process that goes on running would register again).
    Remove {
        broker: i32,
        /// Forget a dead broker at once; copies elsewhere are made good afterwards
        #[arg(long)]
        force: bool,
        /// Put the replicas that are on their way back, and let the broker serve again
        #[arg(long, conflicts_with = "force")]
        cancel: bool,
    },
}

pub async fn run(broker: Broker, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let mut brokers = reach.brokers().await?;
    match broker.command {
        Command::List => list(&mut brokers, format).await,
        Command::Drain { broker } => set_draining(&mut brokers, broker, true, format).await,
        Command::Undrain { broker } => set_draining(&mut brokers, broker, false, format).await,
        Command::Remove { broker, cancel: true, .. } => cancel(reach, &mut brokers, broker, format).await,
        Command::Remove { broker, force, .. } => remove(reach, brokers, broker, force, format).await,
    }
}

async fn summaries(brokers: &mut BrokersClient) -> anyhow::Result<Vec<BrokerSummary>> {
    let answer = brokers.list(ListBrokersRequest {}).await.map_err(|status| reach::refused(&status))?;
    Ok(answer.into_inner().brokers)
}

fn liveness(summary: &BrokerSummary) -> &'static str {
    match summary.liveness() {
        Liveness::Unspecified => "unknown",
        Liveness::Alive => "alive",
        Liveness::Fenced => "fenced",
        Liveness::ShuttingDown => "shutting down",
    }
}

async fn list(brokers: &mut BrokersClient, format: Format) -> anyhow::Result<()> {
    let found = summaries(brokers).await?;
    if format == Format::Json {
        let brokers = found.iter().map(|b| {
            json!({
                "id": b.id, "liveness": liveness(b), "draining": b.draining, "rack": b.rack, "leaders": b.leaders,
                "replicas": b.replicas, "arriving": b.arriving, "leaving": b.leaving,
            })
        });
        return output::json(&json!({ "brokers": brokers.collect::<Vec<_>>() }));
    }
    let mut table = Table::new(&["broker", "is", "drained", "rack", "leaders", "replicas", "arriving", "leaving"]);
    for broker in found {
        table.row(vec![
            broker.id.to_string(),
            liveness(&broker).to_string(),
            if broker.draining { "yes" } else { "no" }.to_string(),
            or_dash(broker.rack),
            broker.leaders.to_string(),
            broker.replicas.to_string(),
            broker.arriving.to_string(),
            broker.leaving.to_string(),
        ]);
    }
    table.print()
}

async fn set_draining(brokers: &mut BrokersClient, broker: i32, draining: bool, format: Format) -> anyhow::Result<()> {
    let request = SetDrainingRequest { broker, draining };
    brokers.set_draining(request).await.map_err(|status| reach::refused(&status))?;
    let leads = summaries(brokers).await?.iter().find(|b| b.id == broker).map_or(0, |b| b.leaders);
    match format {
        Format::Json => output::json(&json!({"broker": broker, "draining": draining, "leaders": leads})),
        Format::Table if !draining => output::line(format!("broker {broker} may lead and take replicas again")),
        Format::Table if leads == 0 => output::line(format!("broker {broker} is drained: it leads nothing")),
        Format::Table => output::line(format!(
            "broker {broker} is drained; it still leads {leads} partitions that nobody else can lead now: they move when \
             another replica is in sync"
        )),
    }
}

/// What a person is to do once a live broker is empty.
fn stop_it(broker: i32) -> String {
    format!(
        "broker {broker} holds nothing any more, and its process still runs: stop it now, this command waits for that and \
         then forgets the broker (after Ctrl-C, `highwater broker remove {broker}` goes on; \
         `highwater broker remove {broker} --cancel` lets it serve again)"
    )
}

async fn reassignments(client: &mut ReassignmentsClient, broker: i32) -> anyhow::Result<Vec<Reassignment>> {
    let request = ListReassignmentsRequest { topic: None, broker: Some(broker) };
    Ok(client.list(request).await.map_err(|status| reach::refused(&status))?.into_inner().reassignments)
}

async fn cancel(reach: &Reach, brokers: &mut BrokersClient, broker: i32, format: Format) -> anyhow::Result<()> {
    let mut client = reach.reassignments().await?;
    let leaving: Vec<Reassignment> =
        reassignments(&mut client, broker).await?.into_iter().filter(|r| r.removing.contains(&broker)).collect();
    let changes = leaving.iter().map(|r| moves::change(&r.topic, r.partition, Vec::new())).collect();
    moves::alter(&mut client, changes).await?;
    if format == Format::Table {
        output::line(format!("{} moves away from broker {broker} are cancelled", leaving.len()))?;
    }
    set_draining(brokers, broker, false, format).await
}

async fn remove(
    reach: &Reach,
    mut brokers: BrokersClient,
    broker: i32,
    force: bool,
    format: Format,
) -> anyhow::Result<()> {
    let refused = |status: tonic::Status| reach::refused(&status);
    // First, so that a broker that cannot go is not drained for nothing.
    brokers.move_away(MoveAwayRequest { broker }).await.map_err(refused)?;
    brokers.set_draining(SetDrainingRequest { broker, draining: true }).await.map_err(refused)?;
    let mut ticks = interval(LINE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told_to_stop, mut failures) = (false, 0);
    loop {
        ticks.tick().await;
        let found = match summaries(&mut brokers).await {
            Ok(found) => found,
            // The node asked may be the one that goes: another one tells as well.
            Err(error) if failures >= FAILURES_MAX => return Err(error),
            Err(_) => {
                failures += 1;
                brokers = reach.brokers().await?;
                continue;
            }
        };
        failures = 0;
        let Some(summary) = found.iter().find(|b| b.id == broker) else { break };
        let dead = summary.liveness() == Liveness::Fenced;
        if summary.replicas == 0 || (force && dead) {
            if dead {
                brokers.unregister(UnregisterBrokerRequest { broker, force }).await.map_err(refused)?;
                break;
            }
            if !std::mem::replace(&mut told_to_stop, true) {
                output::tell(&stop_it(broker));
            }
            continue;
        }
        let Ok(moving) = reassignments(&mut reach.reassignments().await?, broker).await else { continue };
        let left = Left::of(&moving);
        match format {
            Format::Table => output::line(format!(
                "{}  broker {broker}: {} partitions left, {left}",
                output::time_of_day(),
                summary.replicas
            ))?,
            Format::Json => output::json_line(&json!({
                "broker": broker, "partitions_left": summary.replicas, "bytes_left": left.bytes_left,
                "bytes_total": left.bytes_total, "records_left": left.records_left,
            }))?,
        }
        // What is under way stays; what changed meanwhile, or came to be, begins.
        match brokers.move_away(MoveAwayRequest { broker }).await {
            Err(status) if status.code() == tonic::Code::FailedPrecondition => return Err(refused(status)),
            // No controller for now, say: asked again in a second.
            _ => {}
        }
    }
    match format {
        Format::Json => output::json_line(&json!({"broker": broker, "removed": true})),
        Format::Table => output::line(format!("broker {broker} is removed from the cluster")),
    }
}
