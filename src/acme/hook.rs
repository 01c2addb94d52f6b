//! Records written by a program of the operator's.
//!
//! It is called as `PROGRAM [ARGUMENTS...] present|cleanup RECORD VALUE`, the record being a whole
//! name (`_acme-challenge.apps.example.org`), and ends with 0 when the record is there, or gone.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::Failure;

/// How long it may take.
const CALL: Duration = Duration::from_secs(120);
/// Of what it says on standard error, as much as is told.
const SAID: u64 = 512;

pub(super) async fn call(
    hook: &[String],
    verb: &str,
    record: &str,
    value: &str,
) -> Result<(), Failure> {
    let (program, arguments) = hook
        .split_first()
        .ok_or_else(|| Failure::Dns("hook names no program".to_owned()))?;
    let wrong = |error: std::io::Error| Failure::Dns(format!("{program}: {error}"));
    let mut child = Command::new(program)
        .args(arguments)
        .args([verb, record, value])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(wrong)?;
    let stderr = child.stderr.take();
    let ended = tokio::time::timeout(CALL, async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut stderr = stderr.take(SAID);
            stderr.read_to_end(&mut said).await?;
            // A program that is not listened to any more must not be held up by it.
            tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
        }
        Ok((child.wait().await?, said))
    });
    match ended.await {
        Err(_) => Err(Failure::Deadline("hook")),
        Ok(Err(error)) => Err(wrong(error)),
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, said))) => {
            let said = String::from_utf8_lossy(&said);
            Err(Failure::Dns(format!(
                "{program} {verb}: {status}: {}",
                said.trim()
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script, "hook"].map(str::to_owned).into()
    }

    #[tokio::test]
    async fn a_program_hears_what_to_do_and_says_why_it_cannot() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("said");
        let script = format!("echo \"$1 $2 $3\" > {}", file.display());
        call(
            &shell(&script),
            "present",
            "_acme-challenge.x.test",
            "value",
        )
        .await
        .unwrap();
        let said = std::fs::read_to_string(&file).unwrap();
        assert_eq!(said, "present _acme-challenge.x.test value\n");

        let loud = "yes no 2>/dev/null | head -c 300000 >&2; exit 3";
        let failure = call(&shell(loud), "cleanup", "r", "v").await.unwrap_err();
        let text = failure.to_string();
        assert!(
            text.contains("exit status: 3") && text.len() < 1000,
            "{text}"
        );
        let missing = call(&["/nonexistent".to_owned()], "present", "r", "v").await;
        assert!(missing.unwrap_err().to_string().contains("/nonexistent"));
    }
}
