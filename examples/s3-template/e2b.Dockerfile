# The code interpreter, with an S3 bucket as a directory.
FROM e2bdev/code-interpreter

RUN apt-get update \
    && apt-get install -y --no-install-recommends awscli ca-certificates curl fuse jq s3fs \
    && rm -rf /var/lib/apt/lists/*

# goofys is in no distribution. Without it, or where it can't be had, s3fs does the work.
ARG GOOFYS_URL=https://github.com/kahing/goofys/releases/latest/download/goofys
RUN curl -fsSL --connect-timeout 10 --max-time 120 -o /usr/local/bin/goofys "$GOOFYS_URL" \
    && chmod 755 /usr/local/bin/goofys \
    || { rm -f /usr/local/bin/goofys; echo "no goofys: s3fs will be used"; }

# What is mounted by the start-up script is there for the user of the sandbox as well.
RUN sed -i 's/^#[[:space:]]*user_allow_other/user_allow_other/' /etc/fuse.conf \
    && { getent group fuse >/dev/null || groupadd --system fuse; } \
    && usermod -a -G fuse user

# No secrets here: who builds the template must not decide whose bucket its sandboxes see.
ARG S3_MOUNT_DIR=/opt/sentient
ENV S3_MOUNT_DIR=$S3_MOUNT_DIR
RUN install -d -o user -g user "$S3_MOUNT_DIR"

COPY --chmod=755 mount-bucket start-up /usr/local/bin/

USER user
WORKDIR /home/user
