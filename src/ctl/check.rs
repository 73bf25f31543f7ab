//! `lobos ctl check`: starts a check, shows how far it is, and says what it found.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::Client;
use super::show::{self, print};
use super::{Check, CtlError};
use crate::control::proto::{self, CheckProgress, CheckState};

pub(super) async fn run(client: &mut Client, asked: Check, json: bool) -> Result<(), CtlError> {
    if asked.stop {
        let answer = client.stop_check(proto::StopCheckRequest {}).await?;
        print(json, &json!({"stopped": answer.get_ref().id}), show::lines);
        return Ok(());
    }
    let id = if asked.watch {
        0
    } else {
        let bucket = asked.bucket.unwrap_or_default();
        let started = client.start_check(proto::StartCheckRequest { bucket });
        started.await?.get_ref().id
    };
    let watched = client.watch_check(proto::WatchCheckRequest { id }).await?;
    let mut progress = watched.into_inner();
    // It goes to standard error, and nowhere if that is no terminal.
    let bar = if json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(0).with_style(style())
    };
    let mut last = CheckProgress::default();
    while let Some(now) = progress.message().await? {
        bar.set_length(now.bytes_total);
        bar.set_position(now.bytes);
        bar.set_message(show::harmless(&format!(
            "{} {}/{} objects",
            now.bucket, now.objects, now.objects_total
        )));
        last = now;
    }
    bar.finish_and_clear();
    print(json, &value(&last), text);
    match (last.state(), last.damaged) {
        (CheckState::Done, 0) => Ok(()),
        (CheckState::Done, damaged) => {
            Err(CtlError::Local(format!("{damaged} objects are damaged")))
        }
        (CheckState::Failed, _) => Err(CtlError::Local(last.failure)),
        (_, 0) => Err(CtlError::Local("the check was stopped".to_owned())),
        (_, damaged) => Err(CtlError::Local(format!(
            "the check was stopped; {damaged} objects are damaged"
        ))),
    }
}

fn style() -> ProgressStyle {
    let plain = ProgressStyle::default_bar();
    let wanted = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    plain
        .template(wanted)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn value(progress: &CheckProgress) -> Value {
    let state = match progress.state() {
        CheckState::Counting | CheckState::Reading => "running",
        CheckState::Done => "done",
        CheckState::Stopped => "stopped",
        CheckState::Failed => "failed",
        CheckState::Unspecified => "unknown",
    };
    let damage = |damage: &proto::DamagedObject| {
        json!({
            "bucket": damage.bucket,
            "key": damage.key,
            "version": damage.version,
            "what": damage.what,
        })
    };
    json!({
        "id": progress.id,
        "state": state,
        "objects": progress.objects,
        "bytes": progress.bytes,
        "skipped": progress.skipped,
        "damaged": progress.damaged,
        "damages": progress.damages.iter().map(damage).collect::<Vec<_>>(),
    })
}

fn text(value: &Value) -> String {
    let mut plain = value.clone();
    let damages = plain
        .as_object_mut()
        .and_then(|fields| fields.remove("damages"))
        .filter(|damages| damages.as_array().is_some_and(|list| !list.is_empty()));
    let lines = show::lines(&plain);
    match damages {
        None => lines,
        Some(damages) => {
            let table = show::table(&damages, &["bucket", "key", "version", "what"]);
            format!("{lines}\n{table}")
        }
    }
}
