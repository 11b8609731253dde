//! Groups and offsets that are deleted while clients, leaders and other members do something else.

use super::tests::*;

#[tokio::test]
async fn a_deletion_whose_client_goes_away_ends_all_the_same() {
    let stage = Stage::new().await;
    stage.commit("", -1, 1).await.expect("committed");
    // The tombstone is appended and not replicated when the client goes away.
    stage.log.high_watermark.send_replace(1);
    let groups = stage.groups.clone();
    let deleting = tokio::spawn(async move { groups.delete("g").await });
    until(|| stage.log.records.lock().len() == 2).await;
    deleting.abort();
    assert!(deleting.await.is_err_and(|error| error.is_cancelled()));
    stage.log.high_watermark.send_replace(usize::MAX);
    until(|| stage.groups.find("g").expect("led").is_none()).await;
    stage.commit("", -1, 2).await.expect("the name is free again");
    assert_eq!(stage.fetched(true), Ok(Some(2)));
}
