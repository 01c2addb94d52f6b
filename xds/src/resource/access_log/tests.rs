use super::*;
use crate::extension::Unchecked;
use crate::proto::envoy::config::accesslog::v3 as message;
use crate::proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
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
    assert_eq!(log.sink, Sink::File("/tmp/x".into()));
    let empty = decode(None, "", LOGGERS[0]).unwrap_err();
    assert_eq!(empty, "typed_config.path: must not be empty");
    let grpc = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig";
    let refused = decode(None, "/tmp/x", grpc).unwrap_err();
    assert!(refused.starts_with("typed_config: access logger") && refused.contains(grpc));
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
