/*
 * Rates and latencies of a xenstore daemon over its Unix socket, without any library between: the same client for
 * every daemon.
 *
 *   xsbench SOCKET fill NODES                  makes NODES nodes below /bench/n, 100 in a directory
 *   xsbench SOCKET OP DEPTH SECONDS NODES      OP: read, write, tx or watch, on nodes chosen at random
 *   xsbench SOCKET clear                       removes /bench
 *
 * DEPTH is how many operations are under way at a time. `tx` is start, read, write and commit of one node; no two that
 * are under way touch the same one. `watch` is a write until another connection has its event (DEPTH 1).
 * Prints one line of JSON: operations, seconds, operations a second, and latencies in microseconds.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { DIRECTORY = 1, READ = 2, WATCH = 4, START = 6, END = 7, WRITE = 11, RM = 13, EVENT = 15, ERROR = 16 };

#define DEPTH_MAX 64
#define SAMPLES_MAX 2000000
#define VALUE_BYTES 32
#define IN_BYTES (1 << 18)

struct header { uint32_t type, req_id, tx_id, len; };

struct conn {
	int fd;
	char in[IN_BYTES];
	size_t from, to;
	char out[IN_BYTES];
	size_t out_len;
};

struct slot { int stage; uint32_t tx; char path[64]; double began; };

static struct conn main_conn, watch_conn;
static struct slot slots[DEPTH_MAX];
static float *samples;
static size_t samples_len;
static unsigned nodes;
static uint32_t random_state = 0x9e3779b9;
static char value[VALUE_BYTES + 1];

static void fail(const char *what)
{
	fprintf(stderr, "xsbench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint32_t any(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state % below;
}

static void open_conn(struct conn *c, const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
	c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to))
		fail(path);
}

static void flush(struct conn *c)
{
	size_t at = 0;

	while (at < c->out_len) {
		ssize_t n = write(c->fd, c->out + at, c->out_len - at);

		if (n <= 0)
			fail("write");
		at += n;
	}
	c->out_len = 0;
}

/* Queues a request: a path with its NUL, and whatever follows it. */
static void put(struct conn *c, uint32_t type, uint32_t id, uint32_t tx, const char *text, const char *more, size_t more_len)
{
	size_t text_len = strlen(text) + 1;
	struct header h = { type, id, tx, text_len + more_len };

	if (c->out_len + sizeof h + h.len > sizeof c->out)
		flush(c);
	memcpy(c->out + c->out_len, &h, sizeof h);
	memcpy(c->out + c->out_len + sizeof h, text, text_len);
	if (more_len)
		memcpy(c->out + c->out_len + sizeof h + text_len, more, more_len);
	c->out_len += sizeof h + h.len;
}

/* The next packet, if it is there or can be waited for; its payload stays valid until the next call. */
static int next(struct conn *c, struct header *h, char **payload, int wait)
{
	for (;;) {
		size_t have = c->to - c->from;

		if (have >= sizeof *h) {
			memcpy(h, c->in + c->from, sizeof *h);
			if (h->len > 4096)
				fail("a reply that is too long");
			if (have >= sizeof *h + h->len) {
				*payload = c->in + c->from + sizeof *h;
				c->from += sizeof *h + h->len;
				return 1;
			}
		}
		if (!wait)
			return 0;
		if (c->from > 0) {
			memmove(c->in, c->in + c->from, have);
			c->from = 0;
			c->to = have;
		}
		ssize_t n = read(c->fd, c->in + c->to, sizeof c->in - c->to);
		if (n <= 0)
			fail("the daemon hung up");
		c->to += n;
	}
}

static void node_path(char *path, size_t size, unsigned i)
{
	snprintf(path, size, "/bench/n/%u/%u", i / 100, i % 100);
}

static int is(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* Starts the operation of a slot, or goes on with it; returns 1 when it is done. */
static int step(const char *op, unsigned i, const struct header *h, const char *payload)
{
	struct slot *s = &slots[i];
	struct conn *c = &main_conn;

	if (h && h->type == ERROR) {
		fprintf(stderr, "xsbench: %s %s: %.*s\n", op, s->path, (int)h->len, payload);
		exit(1);
	}
	if (is(op, "read"))
		return h ? 1 : (put(c, READ, i, 0, s->path, NULL, 0), 0);
	if (is(op, "write"))
		return h ? 1 : (put(c, WRITE, i, 0, s->path, value, VALUE_BYTES), 0);
	switch (h ? s->stage++ : (s->stage = 0, -1)) {
	case -1: put(c, START, i, 0, "", NULL, 0); return 0;
	case 0: s->tx = strtoul(payload, NULL, 10); put(c, READ, i, s->tx, s->path, NULL, 0); return 0;
	case 1: put(c, WRITE, i, s->tx, s->path, value, VALUE_BYTES); return 0;
	case 2: put(c, END, i, s->tx, "T", NULL, 0); return 0;
	}
	return 1;
}

/* A node of its own for each slot, so that no two transactions conflict. */
static void begin(const char *op, unsigned i, unsigned depth)
{
	unsigned each = nodes / depth;

	node_path(slots[i].path, sizeof slots[i].path, each ? i * each + any(each) : i % nodes);
	slots[i].began = now();
	step(op, i, NULL, NULL);
}

static void sample(double began, double ended)
{
	if (samples_len < SAMPLES_MAX)
		samples[samples_len++] = (ended - began) * 1e6;
}

static uint64_t run(const char *op, unsigned depth, double seconds)
{
	uint64_t done = 0;
	double end = now() + seconds, at = 0;
	unsigned under_way = depth;
	struct header h;
	char *payload;

	for (unsigned i = 0; i < depth; i++)
		begin(op, i, depth);
	while (under_way > 0) {
		flush(&main_conn);
		for (int wait = 1; next(&main_conn, &h, &payload, wait); wait = 0) {
			if (h.type == EVENT)
				continue;
			if (h.req_id >= depth)
				fail("a reply to nothing");
			if (!step(op, h.req_id, &h, payload))
				continue;
			at = now();
			sample(slots[h.req_id].began, at);
			done++;
			if (at < end)
				begin(op, h.req_id, depth);
			else
				under_way--;
		}
	}
	return done;
}

static uint64_t run_watch(double seconds)
{
	uint64_t done = 0;
	double end = now() + seconds;
	struct header h;
	char *payload, path[64];

	put(&watch_conn, WATCH, 0, 0, "/bench", "t", 2);
	flush(&watch_conn);
	for (int heard = 0; heard < 2; heard++)
		next(&watch_conn, &h, &payload, 1);
	while (now() < end) {
		double began = now();

		node_path(path, sizeof path, any(nodes));
		put(&main_conn, WRITE, 0, 0, path, value, VALUE_BYTES);
		flush(&main_conn);
		next(&watch_conn, &h, &payload, 1);
		if (h.type != EVENT || strcmp(payload, path))
			fail("an event of something else");
		sample(began, now());
		next(&main_conn, &h, &payload, 1);
		done++;
	}
	return done;
}

static void fill(void)
{
	struct header h;
	char *payload, path[64];
	unsigned asked = 0, answered = 0;

	while (answered < nodes) {
		for (; asked < nodes && asked - answered < 500; asked++) {
			node_path(path, sizeof path, asked);
			put(&main_conn, WRITE, asked, 0, path, value, VALUE_BYTES);
		}
		flush(&main_conn);
		for (int wait = 1; next(&main_conn, &h, &payload, wait); wait = 0) {
			if (h.type == ERROR)
				fail(payload);
			answered++;
		}
	}
}

static int by_size(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	struct header h;
	char *payload;

	if (argc < 3) {
		fprintf(stderr, "usage: xsbench SOCKET fill NODES | SOCKET OP DEPTH SECONDS NODES | SOCKET clear\n");
		return 2;
	}
	memset(value, 'v', VALUE_BYTES);
	open_conn(&main_conn, argv[1]);
	if (is(argv[2], "clear")) {
		put(&main_conn, RM, 0, 0, "/bench", NULL, 0);
		flush(&main_conn);
		return !next(&main_conn, &h, &payload, 1);
	}
	nodes = strtoul(argv[argc - 1], NULL, 10);
	if (nodes == 0)
		return 2;
	if (is(argv[2], "fill")) {
		double began = now();

		fill();
		printf("{\"op\":\"fill\",\"operations\":%u,\"seconds\":%.3f}\n", nodes, now() - began);
		return 0;
	}
	if (argc != 6)
		return 2;
	unsigned depth = strtoul(argv[3], NULL, 10);
	double seconds = strtod(argv[4], NULL);
	if (depth < 1 || depth > DEPTH_MAX)
		return 2;
	samples = malloc(SAMPLES_MAX * sizeof *samples);
	if (!samples)
		fail("memory");
	if (is(argv[2], "watch"))
		open_conn(&watch_conn, argv[1]);
	uint64_t done = 0;
	double took = 0;
	/* Once for nothing, so that everything is warm. */
	for (int round = 0; round < 2; round++) {
		double length = round ? seconds : seconds / 4, began = now();

		samples_len = 0;
		if (round && is(argv[2], "watch")) {
			put(&watch_conn, 5, 0, 0, "/bench", "t", 2);
			flush(&watch_conn);
			next(&watch_conn, &h, &payload, 1);
			began = now();
		}
		done = is(argv[2], "watch") ? run_watch(length) : run(argv[2], depth, length);
		took = now() - began;
	}
	qsort(samples, samples_len, sizeof *samples, by_size);
	printf("{\"op\":\"%s\",\"depth\":%u,\"nodes\":%u,\"operations\":%llu,\"seconds\":%.3f,\"rate\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
	       argv[2], depth, nodes, (unsigned long long)done, took, done / took, samples[samples_len / 2],
	       samples[(size_t)(samples_len * 0.99)]);
	return 0;
}
