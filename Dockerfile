# Three images: a program each, with the libraries that it loads and nothing else. There is no shell in them,
# and no package manager. The last one is the default.
#
#   docker build -t billing-server .
#   docker build -t billing-cron --target cron .
#   docker build -t payment-sandbox --target payment-sandbox .
#   docker run -v ./config.yaml:/etc/billing/config.yaml:ro -p 8107:8107 -p 9107:9107 billing-server

FROM rust:1.91-slim-bookworm AS build
WORKDIR /src
COPY . .
# An image of 60 MB or more fails the build.
RUN cargo build --release --locked --bins \
    && deploy/rootfs.sh target/release/payment-sandbox /rootfs/payment-sandbox 60 \
    && deploy/rootfs.sh target/release/cron /rootfs/cron 60 \
    && deploy/rootfs.sh target/release/server /rootfs/server 60

FROM scratch AS payment-sandbox
COPY --from=build /rootfs/payment-sandbox /
USER 65532:65532
EXPOSE 9101
ENTRYPOINT ["/bin/payment-sandbox"]
CMD ["-conf", "/etc/billing/config.yaml"]

FROM scratch AS cron
COPY --from=build /rootfs/cron /
USER 65532:65532
WORKDIR /data
EXPOSE 9207
ENTRYPOINT ["/bin/cron"]
CMD ["-conf", "/etc/billing/config.yaml"]

FROM scratch AS server
COPY --from=build /rootfs/server /
USER 65532:65532
WORKDIR /data
EXPOSE 8107 9107
ENTRYPOINT ["/bin/server"]
CMD ["-conf", "/etc/billing/config.yaml"]
