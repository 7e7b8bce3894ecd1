# One image for every process of a Culvert host. What a container is, its first argument says (tools/container/entry.sh):
# hardware, xen, xenstored, dom0, domu, keys, guest, or culvert with arguments of its own.
FROM node:24-bookworm-slim
WORKDIR /app
ENV NODE_ENV=production
COPY package.json package-lock.json .npmrc ./
# The image is Node 24 itself: the optional packages are Node 24 for machines that have another.
RUN npm ci --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error
COPY proto proto
COPY shared shared
COPY examples examples
COPY tools tools
COPY services services
ENV CULVERT_BOARD=/app/examples/boards/qemu-virt.yaml
USER node
ENTRYPOINT ["/app/tools/container/entry.sh"]
CMD ["culvert", "--help"]
