//! Where logs end: told of the partitions that this node leads, asked of others. For the lag of consumer groups.

use super::node::Node;
use super::proto;
use super::states::{Asker, LocalReplicas, id_of, partition_of};
use crate::group::log_ends::{self, EndsFuture, LogEnds, LogEndsSource, Question};
use crate::ids::*;
use std::time::Duration;
use tonic::Status;

/// Partitions of one call, and times or offsets to look up for all of them together.
const QUESTIONS_MAX: usize = 1_000;
const LOOKUPS_MAX: usize = 10_000;
/// One call: some thousand headers may have to be read from a disk.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

impl LocalReplicas {
    /// Reads are for a thread that may block.
    async fn log_ends(&self, questions: Vec<Question>) -> Vec<LogEnds> {
        let Some(hosted) = self.hosted() else { return Vec::new() };
        let looked = tokio::task::spawn_blocking(move || {
            questions.iter().filter_map(|question| log_ends::answer(&hosted, question)).collect()
        });
        looked.await.unwrap_or_default()
    }

    pub async fn answer_log_ends(
        &self,
        node: &Node,
        request: &proto::LogEndsRequest,
    ) -> Result<proto::LogEndsAnswer, Status> {
        let lookups: usize = request.questions.iter().map(|q| q.times_of.len() + q.offsets_at.len()).sum();
        if request.questions.len() > QUESTIONS_MAX || lookups > LOOKUPS_MAX {
            return Err(Status::invalid_argument(format!(
                "at most {QUESTIONS_MAX} partitions and {LOOKUPS_MAX} records may be asked for at a time"
            )));
        }
        let questions = request.questions.iter().map(question_of).collect::<Result<_, _>>()?;
        let ends = self.log_ends(questions).await.iter().map(told).collect();
        Ok(proto::LogEndsAnswer { cluster_id: node.cluster.text(), ends })
    }
}

fn asked(question: &Question) -> proto::LogQuestion {
    proto::LogQuestion {
        partition: Some(id_of(question.partition)),
        times_of: question.times_of.iter().map(|offset| offset.0).collect(),
        offsets_at: question.offsets_at.clone(),
    }
}

fn question_of(asked: &proto::LogQuestion) -> Result<Question, Status> {
    let partition =
        asked.partition.as_ref().ok_or_else(|| Status::invalid_argument("a question names no partition"))?;
    Ok(Question {
        partition: partition_of(partition)?,
        times_of: asked.times_of.iter().copied().map(Offset).collect(),
        offsets_at: asked.offsets_at.clone(),
    })
}

/// −1 stands for none.
fn told(ends: &LogEnds) -> proto::LogEnds {
    proto::LogEnds {
        partition: Some(id_of(ends.partition)),
        log_start: ends.log_start.0,
        log_end: ends.log_end.0,
        times: ends.times.iter().map(|time| time.unwrap_or(-1)).collect(),
        offsets: ends.offsets.iter().map(|offset| offset.map_or(-1, |offset| offset.0)).collect(),
    }
}

fn heard(ends: proto::LogEnds) -> Result<LogEnds, Status> {
    let partition = ends.partition.ok_or_else(|| Status::invalid_argument("an answer names no partition"))?;
    let some = |value: i64| (value >= 0).then_some(value);
    Ok(LogEnds {
        partition: partition_of(&partition)?,
        log_start: Offset(ends.log_start),
        log_end: Offset(ends.log_end),
        times: ends.times.into_iter().map(some).collect(),
        offsets: ends.offsets.into_iter().map(|offset| some(offset).map(Offset)).collect(),
    })
}

/// In the order given, each call within both bounds.
fn calls(questions: &[Question]) -> Vec<&[Question]> {
    let mut calls = Vec::new();
    let (mut begin, mut lookups) = (0, 0);
    for (index, question) in questions.iter().enumerate() {
        let more = question.times_of.len() + question.offsets_at.len();
        if index > begin && (index - begin == QUESTIONS_MAX || lookups + more > LOOKUPS_MAX) {
            calls.push(&questions[begin..index]);
            (begin, lookups) = (index, 0);
        }
        lookups += more;
    }
    if begin < questions.len() {
        calls.push(&questions[begin..]);
    }
    calls
}

impl Asker {
    async fn ask_log_ends(&self, broker: BrokerId, questions: &[Question]) -> Result<Vec<LogEnds>, Status> {
        let address = self.address(broker)?;
        let mut ends = Vec::with_capacity(questions.len());
        for call in calls(questions) {
            let mut client = self.client(&address)?;
            let request =
                proto::LogEndsRequest { cluster_id: self.cluster_id(), questions: call.iter().map(asked).collect() };
            let answer = tokio::time::timeout(ASK_TIMEOUT, client.log_ends(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
            for told in answer.inspect_err(|_| self.forget(&address))?.into_inner().ends {
                ends.push(heard(told)?);
            }
        }
        Ok(ends)
    }
}

impl LogEndsSource for Asker {
    fn ask(&self, broker: BrokerId, questions: Vec<Question>) -> EndsFuture<'_> {
        if self.is_here(broker) {
            return Box::pin(async move { Ok(self.local().log_ends(questions).await) });
        }
        let asker = self.clone();
        let work = self.runtime().spawn(async move { asker.ask_log_ends(broker, &questions).await });
        Box::pin(async move {
            match work.await {
                Ok(answer) => answer.map_err(|status| status.message().to_string()),
                Err(_) => Err("this node is stopping".to_string()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id() -> TopicPartition {
        TopicPartition::new(TopicId(Uuid::from_u128(7)), 3)
    }

    #[test]
    fn questions_and_answers_survive_the_wire() {
        let question = Question { partition: id(), times_of: vec![Offset(5), Offset(0)], offsets_at: vec![1_000] };
        assert_eq!(question_of(&asked(&question)).unwrap(), question);
        let ends = LogEnds {
            partition: id(),
            log_start: Offset(1),
            log_end: Offset(9),
            times: vec![Some(0), None],
            offsets: vec![None, Some(Offset(0))],
        };
        assert_eq!(heard(told(&ends)).unwrap(), ends);
        assert!(heard(proto::LogEnds::default()).is_err() && question_of(&proto::LogQuestion::default()).is_err());
    }

    #[test]
    fn many_questions_are_several_calls_within_the_bounds() {
        let question =
            |lookups: usize| Question { partition: id(), times_of: vec![Offset(1); lookups], offsets_at: vec![] };
        let sizes = |questions: &[Question]| calls(questions).iter().map(|call| call.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&vec![question(1); 2_500]), [1_000, 1_000, 500]);
        assert_eq!(sizes(&[question(6_000), question(6_000), question(1)]), [1, 2]);
        assert!(sizes(&[]).is_empty());
    }
}
