# The operator's image. `make image` builds it; what it needs from the network is the base image and the Python packages of two
# lock files, whose hashes are checked.
#
# Behind a package mirror give its address as a build argument (PIP_INDEX_URL), or, when it holds a password, a whole pip.conf as a
# secret (--secret id=pip.conf,src=…), and the mirror's authority as another (--secret id=ca.crt,src=…, named by `cert` in
# pip.conf as /run/secrets/ca.crt). Neither is in the image or in its history. A proxy is HTTPS_PROXY, which builders pass on themselves.

# By the digest of the index (all platforms), so that a build is the same tomorrow; the tag says what it is: Python 3.13.15. To take
# the image of today: docker buildx imagetools inspect docker.io/library/python:3.13-slim-bookworm, and copy its Digest.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim-bookworm@sha256:2325bb286ec344af3e5898cc224b5844e2707ac6e26b1632516fd3edc84a5e26

FROM ${BASE_IMAGE} AS builder
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# The dependencies first: they change less often than the code. The target has no pip of its own.
COPY requirements-runtime.lock requirements-build.lock ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt \
    python3 -m venv tools \
    && tools/bin/pip install --require-hashes --requirement requirements-build.lock \
    && python3 -m venv --without-pip /opt/tenant-operator \
    && tools/bin/pip --python /opt/tenant-operator/bin/python install --only-binary :all: \
        --require-hashes --requirement requirements-runtime.lock

COPY pyproject.toml README.md LICENSE ./
COPY operator operator
# Offline, with what the lock files brought. pip compiles what it installs, since nothing can be written later.
RUN tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /opt/tenant-operator/bin/python install --no-index --no-deps dist/*.whl


FROM ${BASE_IMAGE}
ARG VERSION
ARG SOURCE
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="tenant-operator" \
      org.opencontainers.image.description="Provisions the tenants of an authentication platform as durable sagas" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

COPY --from=builder /opt/tenant-operator /opt/tenant-operator
ENV PATH=/opt/tenant-operator/bin:${PATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# A number, so that the kubelet can tell that it is not root. It may be another at run time: none has a name in /etc/passwd, and
# libraries that ask who runs them are answered by USER.
ENV USER=tenant-operator
USER 65532:65532
# Health, the answer for closed routes, admission webhooks.
EXPOSE 8080 8081 9443
STOPSIGNAL SIGTERM
ENTRYPOINT ["tenant-operator"]
CMD ["run"]
