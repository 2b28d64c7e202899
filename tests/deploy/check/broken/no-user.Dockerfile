# refused: has no USER 1000:1000
FROM debian:12.11-slim
COPY abide-server /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/abide-server"]
