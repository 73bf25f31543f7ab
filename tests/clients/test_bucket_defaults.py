"""What is asked of a bucket where nobody set it: tools that read everything must get on."""

import pytest
from botocore.exceptions import ClientError

EMPTY = {
    "get_bucket_accelerate_configuration": {},
    "get_bucket_logging": {},
    "get_bucket_notification_configuration": {},
    "get_bucket_request_payment": {"Payer": "BucketOwner"},
    "list_bucket_analytics_configurations": {"IsTruncated": False},
    "list_bucket_intelligent_tiering_configurations": {"IsTruncated": False},
    "list_bucket_inventory_configurations": {"IsTruncated": False},
    "list_bucket_metrics_configurations": {"IsTruncated": False},
}
ABSENT = {
    "get_bucket_encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "get_bucket_replication": "ReplicationConfigurationNotFoundError",
    "get_bucket_website": "NoSuchWebsiteConfiguration",
}


@pytest.mark.parametrize("name", EMPTY)
def test_what_is_always_there_is_empty(site, name):
    answer = getattr(site.s3, name)(Bucket=site.bucket)
    del answer["ResponseMetadata"]
    assert answer == EMPTY[name]


@pytest.mark.parametrize("name", ABSENT)
def test_what_may_be_missing_is_missing_by_its_own_code(site, name):
    with pytest.raises(ClientError) as error:
        getattr(site.s3, name)(Bucket=site.bucket)
    assert error.value.response["Error"]["Code"] == ABSENT[name]
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


@pytest.mark.parametrize("kind", ["analytics", "intelligent_tiering", "inventory", "metrics"])
def test_a_configuration_by_its_id_does_not_exist(site, kind):
    with pytest.raises(ClientError) as error:
        getattr(site.s3, f"get_bucket_{kind}_configuration")(Bucket=site.bucket, Id="any")
    assert error.value.response["Error"]["Code"] == "NoSuchConfiguration"


def test_removing_what_is_not_there_succeeds(site):
    for name in ("encryption", "replication", "website"):
        getattr(site.s3, f"delete_bucket_{name}")(Bucket=site.bucket)


def test_setting_it_is_refused_by_name(site):
    with pytest.raises(ClientError) as error:
        site.s3.put_bucket_accelerate_configuration(
            Bucket=site.bucket, AccelerateConfiguration={"Status": "Enabled"})
    assert error.value.response["Error"]["Code"] == "NotImplemented"
    assert "PutBucketAccelerateConfiguration" in error.value.response["Error"]["Message"]


def test_nobody_else_learns_of_it(site):
    stranger = site.server.client(access_key="stranger", secret_key="not known")
    with pytest.raises(ClientError) as error:
        stranger.get_bucket_logging(Bucket=site.bucket)
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
