//! `lrs_server`.

use super::*;
use crate::proto::core::config_source::ConfigSourceSpecifier as Specifier;
use crate::proto::core::{ConfigSource, PathConfigSource, api_config_source::ApiType};
use crate::resource::config_source::Place;

fn with(specifier: Specifier) -> proto::Cluster {
    proto::Cluster {
        lrs_server: Some(ConfigSource {
            config_source_specifier: Some(specifier),
            ..ConfigSource::default()
        }),
        ..cluster()
    }
}

#[test]
fn load_is_reported_to_servers_by_streams() {
    assert_eq!(typed(&cluster()).load_reports, None);
    let own = typed(&with(Specifier::Self_(core::SelfConfigSource::default())));
    assert_eq!(own.load_reports, Some(Place::SameOrigin));
    let ads = typed(&with(Specifier::Ads(core::AggregatedConfigSource {})));
    assert_eq!(ads.load_reports, Some(Place::Ads));

    let file = with(Specifier::PathConfigSource(PathConfigSource {
        path: "/dev/null".into(),
        ..PathConfigSource::default()
    }));
    let polled = with(Specifier::ApiConfigSource(core::ApiConfigSource {
        api_type: ApiType::Rest as i32,
        cluster_names: vec!["s".into()],
        refresh_delay: Some(proto::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..core::ApiConfigSource::default()
    }));
    for (message, reason) in [
        (
            file,
            "lrs_server: a file takes no reports; must be a management server",
        ),
        (
            polled,
            "lrs_server.api_config_source.api_type: must be GRPC or DELTA_GRPC",
        ),
    ] {
        assert_eq!(refusal(&message), reason);
    }
}
