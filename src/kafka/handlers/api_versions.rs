//! ApiVersions: what is served.

use crate::kafka::context::RequestContext;
use crate::kafka::errors::Code;
use crate::kafka::names::text;
use crate::kafka::versions;
use crate::metadata::image::Image;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use std::collections::BTreeMap;

/// Features that every node of this version has, whatever the image says. `group.version` 1 is the consumer protocol:
/// clients look for it before they use that.
const ALWAYS_ON: [(&str, i16); 1] = [("group.version", 1)];

/// From this version on the client says what it is (KIP-511) and hears of features (KIP-584).
const WITH_SOFTWARE: i16 = 3;

pub async fn handle(context: &RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse {
    answer(context.version, context.is_replica_listener, &request, &context.services.quorum.image())
}

/// The answer to a version that is not known, in version 0: the client tries again with what it reads there.
pub fn unsupported(is_replica_listener: bool) -> ApiVersionsResponse {
    table(is_replica_listener).with_error_code(Code::UnsupportedVersion.code())
}

fn answer(version: i16, is_replica_listener: bool, request: &ApiVersionsRequest, image: &Image) -> ApiVersionsResponse {
    if version < WITH_SOFTWARE {
        return table(is_replica_listener);
    }
    if !is_software_name(&request.client_software_name) || !is_software_name(&request.client_software_version) {
        return ApiVersionsResponse::default().with_error_code(Code::InvalidRequest.code());
    }
    let mut features: BTreeMap<&str, i16> =
        image.features.iter().filter(|(_, level)| **level >= 1).map(|(name, level)| (name.as_str(), *level)).collect();
    for (name, level) in ALWAYS_ON {
        features.entry(name).or_insert(level);
    }
    let finalized = || features.iter();
    table(is_replica_listener)
        .with_finalized_features_epoch(i64::try_from(image.index.0).unwrap_or(i64::MAX))
        .with_supported_features(
            finalized()
                .map(|(name, level)| {
                    SupportedFeatureKey::default().with_name(text(name)).with_min_version(1).with_max_version(*level)
                })
                .collect(),
        )
        .with_finalized_features(
            finalized()
                .map(|(name, level)| {
                    FinalizedFeatureKey::default()
                        .with_name(text(name))
                        .with_min_version_level(1)
                        .with_max_version_level(*level)
                })
                .collect(),
        )
}

fn table(is_replica_listener: bool) -> ApiVersionsResponse {
    let keys = versions::served(is_replica_listener).map(|api| {
        ApiVersion::default().with_api_key(api.key).with_min_version(api.advertised_min).with_max_version(api.max)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}

/// Letters and digits at both ends, dashes and dots between.
fn is_software_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.iter().copied().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;

    fn request(name: &str) -> ApiVersionsRequest {
        ApiVersionsRequest::default().with_client_software_name(text(name)).with_client_software_version(text("1.2-x"))
    }

    #[test]
    fn every_version_encodes_and_tells_the_whole_table() {
        let mut image = testing::image();
        image.features.insert("metadata.version".to_string(), 7);
        for version in 0..=4 {
            let response = answer(version, false, &request("librdkafka"), &image);
            assert_eq!(response.error_code, 0);
            assert_eq!(response.api_keys.len(), versions::TABLE.len());
            testing::encodes(versions::API_VERSIONS, version, &response);
        }
        testing::encodes(versions::API_VERSIONS, 0, &unsupported(false));
        assert_eq!(unsupported(true).api_keys.len(), 3);
        assert_eq!(unsupported(true).error_code, 35);
    }

    #[test]
    fn software_names_are_checked_from_version_3_on() {
        let image = testing::image();
        for bad in ["", "-a", "a.", "a b", "ü"] {
            assert_eq!(answer(3, false, &request(bad), &image).error_code, 42, "{bad}");
            assert_eq!(answer(2, false, &request(bad), &image).error_code, 0);
        }
        for good in ["a", "apache-kafka-java", "7"] {
            assert_eq!(answer(4, false, &request(good), &image).error_code, 0, "{good}");
        }
    }
}
