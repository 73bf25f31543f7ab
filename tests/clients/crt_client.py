"""One S3 transfer with aws-crt, as LMCache makes it: `put|get|head HOST KEY FILE [CHECKSUM]`.

Prints a JSON object: the final status, the length that was announced, the error if there was one.
"""

import json
import os
import sys

from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup
from awscrt.s3 import (
    S3ChecksumAlgorithm, S3ChecksumConfig, S3ChecksumLocation, S3Client, S3RequestTlsMode,
    S3RequestType, create_default_s3_signing_config,
)

SECONDS_MAX = 60
MIB = 1 << 20


def main(verb, host, key, file, checksum=None):
    report = {"status": None, "length": None, "error": None}

    def on_headers(status_code, headers, **_):
        report["status"] = status_code
        report["length"] = dict((n.lower(), v) for n, v in headers).get("content-length")

    path = "/" + key.replace("@", "%40")
    headers = HttpHeaders([("Host", host)])
    more, kind = {}, S3RequestType.GET_OBJECT
    method = verb.upper()
    if verb == "put":
        headers.add("Content-Length", str(os.stat(file).st_size))
        headers.add("Content-Type", "application/octet-stream")
        kind, more["send_filepath"] = S3RequestType.PUT_OBJECT, file
        if checksum:
            more["checksum_config"] = S3ChecksumConfig(
                algorithm=S3ChecksumAlgorithm[checksum], location=S3ChecksumLocation.TRAILER)
    elif verb == "get":
        more["recv_filepath"] = file
    else:
        kind, more["operation_name"] = S3RequestType.DEFAULT, "HeadObject"
    request = connect().make_request(
        type=kind, request=HttpRequest(method, path, headers), on_headers=on_headers, **more)
    try:
        request.finished_future.result(SECONDS_MAX)
    except Exception as error:  # The caller judges by the status.
        report["error"] = str(error)
        report["status"] = getattr(error, "status_code", None) or report["status"]
    print(json.dumps(report))


def connect():
    group = EventLoopGroup(2)
    bootstrap = ClientBootstrap(group, DefaultHostResolver(group))
    keys = AwsCredentialsProvider.new_static(
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    signing = create_default_s3_signing_config(region="us-east-1", credential_provider=keys)
    return S3Client(
        bootstrap=bootstrap, region="us-east-1", signing_config=signing, part_size=8 * MIB,
        tls_mode=S3RequestTlsMode.DISABLED, throughput_target_gbps=10)


if __name__ == "__main__":
    main(*sys.argv[1:])
