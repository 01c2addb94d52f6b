use super::*;
use crate::extension::Unchecked;
use crate::proto::envoy::config::accesslog::v3 as message;
use crate::proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use crate::proto::envoy::extensions::access_loggers::grpc::v3 as grpc_message;
use crate::proto::{Any, Message as _, core};
use crate::resource::context::Context;

fn decode(filter: Option<FilterSpecifier>, path: &str, kind: &str) -> Result<AccessLog, String> {
    let file = crate::proto::envoy::extensions::access_loggers::file::v3::FileAccessLog {
        path: path.to_owned(),
        access_log_format: None,
    };
    let any = Any {
        type_url: format!("type.googleapis.com/{kind}"),
        value: file.encode_to_vec(),
    };
    let log = message::AccessLog {
        name: "log".into(),
        filter: filter.map(|specifier| message::AccessLogFilter {
            filter_specifier: Some(specifier),
        }),
        config_type: Some(message::access_log::ConfigType::TypedConfig(any)),
    };
    AccessLog::decode(log, &Context::new(&Unchecked)).map_err(|e| e.to_string())
}

fn comparison(op: i32, key: &str) -> Option<message::ComparisonFilter> {
    Some(message::ComparisonFilter {
        op,
        value: Some(core::RuntimeUInt32 {
            default_value: 500,
            runtime_key: key.into(),
        }),
    })
}

#[test]
fn a_logger_says_where_its_lines_go() {
    let log = decode(None, "/tmp/x", LOGGERS[0]).unwrap();
    let lines = |sink| Destination::Lines { sink, format: None };
    assert_eq!(log.to, lines(Sink::File("/tmp/x".into())));
    let empty = decode(None, "", LOGGERS[0]).unwrap_err();
    assert_eq!(empty, "typed_config.path: must not be empty");
    let other = "envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig";
    let refused = decode(None, "/tmp/x", other).unwrap_err();
    assert!(refused.starts_with("typed_config: access logger") && refused.contains(other));
}

fn decode_grpc(
    change: impl FnOnce(&mut grpc_message::CommonGrpcAccessLogConfig),
) -> Result<GrpcLog, String> {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let mut common = grpc_message::CommonGrpcAccessLogConfig {
        log_name: "l".into(),
        grpc_service: Some(core::GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: "c".into(),
                ..Default::default()
            })),
            ..Default::default()
        }),
        transport_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    };
    change(&mut common);
    let config = grpc_message::HttpGrpcAccessLogConfig {
        common_config: Some(common),
        additional_request_headers_to_log: vec!["X-A".into()],
        ..Default::default()
    };
    let log = message::AccessLog {
        config_type: Some(message::access_log::ConfigType::TypedConfig(
            crate::type_url::pack(&config),
        )),
        ..Default::default()
    };
    let log = AccessLog::decode(log, &Context::new(&Unchecked)).map_err(|e| e.to_string())?;
    match log.to {
        Destination::Grpc(log) => Ok(*log),
        Destination::Lines { .. } => panic!(),
    }
}

#[test]
fn a_service_of_logs_is_read_with_its_defaults() {
    let log = decode_grpc(|_| ()).unwrap();
    assert_eq!(log.kind, EntryKind::Request);
    assert_eq!((&*log.name, &*log.service.cluster), ("l", "c"));
    assert_eq!(
        (log.flush_interval.as_secs(), log.buffer_size),
        (1, 16 * 1024)
    );
    assert_eq!(log.request_headers, ["x-a"]);
    let at = "typed_config.common_config";
    let refused = |change: fn(&mut grpc_message::CommonGrpcAccessLogConfig)| {
        let reason = decode_grpc(change).unwrap_err();
        let reason = reason.strip_prefix(at).expect(at);
        reason.trim_start_matches('.').to_owned()
    };
    assert_eq!(
        refused(|c| c.log_name.clear()),
        "log_name: must not be empty"
    );
    assert_eq!(
        refused(|c| c.grpc_service = None),
        "grpc_service: must be given"
    );
    assert_eq!(
        refused(|c| c.transport_api_version = 1),
        "transport_api_version: V2 is not supported"
    );
    assert_eq!(
        refused(|c| c.buffer_flush_interval = Some(Default::default())),
        "buffer_flush_interval: must be greater than zero"
    );
    assert_eq!(
        refused(|c| c.filter_state_objects_to_log = vec!["x".into()]),
        "filter_state_objects_to_log: not supported yet"
    );
}

#[test]
fn filters_are_checked_with_their_place() {
    use FilterSpecifier as F;
    let status = |comparison| F::StatusCodeFilter(message::StatusCodeFilter { comparison });
    let of = |filter| decode(Some(filter), "/x", LOGGERS[0]).map(|log| log.filter.unwrap());
    let ge = Comparison {
        op: ComparisonOp::AtLeast,
        value: 500,
    };
    assert_eq!(
        of(status(comparison(1, "k"))),
        Ok(LogFilter::StatusCode(ge))
    );
    for (filter, reason) in [
        (
            status(comparison(9, "k")),
            "filter.status_code_filter.comparison.op: 9 is not a known value",
        ),
        (
            status(None),
            "filter.status_code_filter.comparison: must be given",
        ),
        (
            status(comparison(0, "")),
            "filter.status_code_filter.comparison.value.runtime_key: must not be empty",
        ),
        (
            F::AndFilter(message::AndFilter::default()),
            "filter.and_filter.filters: must be two at least",
        ),
        (
            F::ResponseFlagFilter(message::ResponseFlagFilter {
                flags: vec!["UF".into(), "XX".into()],
            }),
            "filter.response_flag_filter.flags[1]: \"XX\" is not a response flag",
        ),
        (
            F::ExtensionFilter(message::ExtensionFilter::default()),
            "filter.extension_filter: not supported yet",
        ),
    ] {
        assert_eq!(of(filter), Err(reason.to_owned()));
    }
}

#[test]
fn comparisons_hold_at_their_limit() {
    let with = |op| Comparison { op, value: 500 };
    for (op, below, at, above) in [
        (ComparisonOp::Equal, false, true, false),
        (ComparisonOp::AtLeast, false, true, true),
        (ComparisonOp::AtMost, true, true, false),
        (ComparisonOp::NotEqual, true, false, true),
    ] {
        let found = [499, 500, 501].map(|value| with(op).holds(value));
        assert_eq!(found, [below, at, above], "{op:?}");
    }
}
