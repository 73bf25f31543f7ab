//! The endpoints beside S3: the control plane and the metrics.

use std::path::Path;

use super::{ConfigError, Control, Endpoint, Listen, is_loopback, raw};

pub(super) fn build_endpoint(
    section: &str,
    enabled: Option<bool>,
    listen: Option<Listen>,
    usual_port: u16,
) -> Result<Endpoint, ConfigError> {
    match (enabled.unwrap_or(true), listen) {
        (true, Some(listen)) => Ok(Endpoint::At(listen)),
        (true, None) => Ok(Endpoint::Usual(Listen::Tcp {
            host: "127.0.0.1".into(),
            port: usual_port,
        })),
        (false, None) => Ok(Endpoint::Off),
        (false, Some(listen)) => Err(ConfigError::Invalid(format!(
            "`{section}.listen` is {listen} and `{section}.enabled` is false; keep one of them"
        ))),
    }
}

/// Who is off this machine cannot be known by a user id, and its token must not be overheard.
pub(super) fn build_control(
    raw: raw::Control,
    base: &Path,
    has_tls: bool,
) -> Result<Control, ConfigError> {
    let endpoint = build_endpoint("control", raw.enabled, raw.listen, CONTROL_PORT)?;
    if let Endpoint::At(listen) = &endpoint
        && !is_loopback(listen)?
        && (raw.token_file.is_none() || !has_tls)
    {
        return Err(ConfigError::Invalid(format!(
            "`control.listen` is {listen}, which others can reach: that needs \
             `control.token_file` and [tls]; or listen on 127.0.0.1 or unix:/path"
        )));
    }
    Ok(Control {
        endpoint,
        token_file: raw.token_file.map(|file| base.join(file)),
    })
}

pub(super) const METRICS_PORT: u16 = 9091;
/// Where the control plane is unless it is configured otherwise.
pub const CONTROL_PORT: u16 = 50051;
