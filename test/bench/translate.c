/*
 * The translation core in C, for the ratios that tools/bench/main.ts prints: the same tables in the same memory (banks of
 * 2 MiB chunks behind a directory), the same walks, caches and checks, the same streams of addresses, and a sum over all
 * results that has to come out the same. gcc -O2 -o translate translate.c, or as tools/bench/reference.ts has it; a line
 * with a name and a number on stdin runs that test so many times and answers {"ops":N,"seconds":S,"sum":U} in CPU time.
 * What registers and wiring decide is not static here: of a static variable that nothing writes gcc takes the value, and
 * leaves out the check or calls the function directly, which no machine can whose registers may change.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define NOINLINE __attribute__((noinline))
typedef uint32_t u32;
typedef uint64_t u64;
#define MIX(sum, v) ((((sum) << 1) | ((sum) >> 31)) ^ (v)) /* every result at its place counts */

/* ---- random numbers and streams, as in tools/bench/machine.ts */
static u32 seed = 0x12345678u;
static u32 rnd(void) { seed ^= seed << 13; seed ^= seed >> 17; seed ^= seed << 5; return seed; }

/* ---- memory */
#define RAM_BASE 0x800000000000ull
#define RAM_BYTES (1ull << 40)
#define CHUNK_SHIFT 21
#define CHUNK_WORDS (1u << 19)
#define NO_RAM -1
static u32 *words;
static int32_t *directory;
static int32_t pages[1 << 14];
static u32 used = 1;

static void makeRam(void) {
  words = mmap(NULL, 8ull << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (words == MAP_FAILED) exit(2);
  u32 entries = 8192;
  for (u64 c = RAM_BASE >> CHUNK_SHIFT; c < (RAM_BASE + RAM_BYTES) >> CHUNK_SHIFT; c += 8192) { pages[c >> 13] = entries; entries += 8192; }
  directory = malloc(entries * sizeof *directory);
  for (u32 i = 0; i < entries; i++) directory[i] = NO_RAM;
  for (u64 c = RAM_BASE >> CHUNK_SHIFT; c < (RAM_BASE + RAM_BYTES) >> CHUNK_SHIFT; c++) directory[pages[c >> 13] + (c & 8191)] = 0;
}
static inline int32_t chunkBase(u32 chunk) { return directory[pages[chunk >> 13] + (chunk & 8191)]; }
static u32 *claim(u64 pa) {
  u32 chunk = pa >> CHUNK_SHIFT;
  int32_t *d = &directory[pages[chunk >> 13] + (chunk & 8191)];
  if (*d == 0) *d = used++ * CHUNK_WORDS;
  return words + *d + ((pa & 0x1fffff) >> 2);
}
static void put64(u64 pa, u64 v) { u32 *w = claim(pa); w[0] = (u32)v; w[1] = v >> 32; }
static inline u64 get64(u64 pa) { u64 v; memcpy(&v, words + chunkBase(pa >> CHUNK_SHIFT) + ((pa & 0x1fffff) >> 2), 8); return v; }

/* ---- tables */
#define PAGES 262144u /* 1 GiB */
#define POOL_PAGES 65536u
#define IPA_BASE 0x7f4000000000ull
#define OUT_BASE 0xc00000000000ull
#define ADDRESS 0x0000fffffffff000ull
static u32 perm[POOL_PAGES], nextPage;
static u64 allocNear(void) { return RAM_BASE + ((u64)perm[nextPage++] << 12); }
static u32 nextFar;
static u64 allocFar(void) { return RAM_BASE + (1ull << 35) + (u64)nextFar++ * 0x31003000ull; } /* all over the bank */

static void map4k(u64 root, u64 ipa, u64 pa, u64 (*alloc)(void)) {
  u64 t = root;
  for (int shift = 39; shift > 12; shift -= 9) {
    u64 e = t + ((ipa >> shift) & 511) * 8, d = get64(e);
    if (!(d & 1)) { d = alloc() | 3; put64(e, d); }
    t = d & ADDRESS;
  }
  put64(t + ((ipa >> 12) & 511) * 8, pa | (3ull << 6) | (1ull << 10) | (0xfull << 2) | 3);
}

/* ---- the stage-2 walk */
struct regime { u64 root; int startLevel, ipaBits, paBits, granuleShift; u64 accessFlag; };
static struct { int level, leafShift; u32 s2ap; u64 fetchPa; } walked;
#define FAULT(kind, level) (~(u64)((kind) | (level)))
enum { ADDRESS_SIZE = 0, TRANSLATION = 4, ACCESS_FLAG = 8, PERMISSION = 12, WALK_ABORT = 0x14 };
#define IS_FAULT(v) ((v) >> 63)

/* The other granules, which no test has. */
static NOINLINE u64 walkGranule(const struct regime *r, u64 ipa, u32 want) { (void)r; (void)ipa; (void)want; exit(3); }
static NOINLINE u64 walk(const struct regime *r, u64 ipa, u32 want) {
  if (ipa >> r->ipaBits) { walked.level = 0; return FAULT(TRANSLATION, 0); }
  if (r->root >> r->paBits) { walked.level = 0; return FAULT(ADDRESS_SIZE, 0); }
  if (r->granuleShift != 12) return walkGranule(r, ipa, want);
  u64 t = r->root;
  int shift = 39 - 9 * r->startLevel;
  u64 index = r->startLevel == 0 ? (ipa >> 39) & 0x1ff : (ipa >> shift) & 0x1fff;
  for (int level = r->startLevel;; level++, shift -= 9, index = (ipa >> shift) & 0x1ff) {
    u64 at = t + index * 8;
    walked.level = level;
    int32_t base = chunkBase(at >> CHUNK_SHIFT);
    if (base < 0) { walked.fetchPa = at; return FAULT(WALK_ABORT, level); }
    u64 d;
    memcpy(&d, words + base + ((at & 0x1fffff) >> 2), 8);
    if (!(d & 1)) return FAULT(TRANSLATION, level);
    if (level == 3 || !(d & 2)) {
      if (level == 3 ? !(d & 2) : level == 0) return FAULT(TRANSLATION, level);
      u64 m = (1ull << shift) - 1, out = d & ADDRESS & ~m;
      if (out >> r->paBits) return FAULT(ADDRESS_SIZE, level);
      if ((d & r->accessFlag) != r->accessFlag) return FAULT(ACCESS_FLAG, level);
      walked.leafShift = shift;
      walked.s2ap = (d >> 6) & 3;
      if ((walked.s2ap & want) != want) return FAULT(PERMISSION, level);
      return out | (ipa & m);
    }
    t = d & ADDRESS;
    if (t >> r->paBits) return FAULT(ADDRESS_SIZE, level);
  }
}

/* ---- the TLB */
struct entry { u32 page, key, low, high; };
struct tag { u32 key, salt; };
static struct entry tlb[4096 + 1024];
static u64 tlbHits, tlbMisses;
static u32 tlbMask, filledAt;
static int largeLeaves; /* an invalidation by address has to search then */
#define TLB_MISS (~(u64)0xffff)

static inline u64 tlbLookup(const struct tag *tag, u64 ipa, u32 want) {
  u32 page = ipa >> 12, key = tag->key | ((ipa >> 44) & 31);
  struct entry *e = &tlb[(page ^ tag->salt) & 4095];
  u32 mask = 0xfff;
  if (e->page != page || e->key != key) {
    u32 block = page >> 9;
    e = &tlb[4096 + ((block ^ tag->salt) & 1023)];
    if (e->page != block || e->key != key) return TLB_MISS;
    mask = 0x1fffff;
  }
  if ((e->low & want) != want) return FAULT(PERMISSION, (e->low >> 4) & 3);
  tlbHits++;
  tlbMask = mask;
  return ((u64)(e->high & 0xffff) << 32) | (e->low & ~0xfffu) | (ipa & mask);
}
static NOINLINE u64 lookup(const struct tag *tag, u64 ipa, u32 want) { return tlbLookup(tag, ipa, want); }
static inline void tlbFill(const struct tag *tag, u64 ipa, u64 pa, int leafShift, u32 allowed, int level) {
  u32 page = ipa >> 12;
  int ofBlock = leafShift >= 21;
  u32 frame = ofBlock ? page >> 9 : page, mask = ofBlock ? 0x1fffff : 0xfff;
  struct entry *e = &tlb[ofBlock ? 4096 + ((frame ^ tag->salt) & 1023) : (frame ^ tag->salt) & 4095];
  if (leafShift != (ofBlock ? 21 : 12)) largeLeaves = 1;
  e->page = frame;
  e->key = tag->key | ((ipa >> 44) & 31);
  e->low = ((u32)pa & ~mask) | allowed | (3 << 2) | (level << 4);
  e->high = ((pa >> 32) & 0xffff) | (leafShift << 16);
  filledAt = e - tlb;
  tlbMask = mask;
}

/* ---- the SMMU */
enum { STREAM_ABORT, STREAM_BYPASS, STREAM_STAGE2, STREAM_STAGE1, STREAM_NESTED, STREAM_BAD };
struct stream { u32 id, kind; struct tag tag; struct regime regime; };
static struct stream *front[4096];
static struct stream nobody = { .id = 0xffffffffu };
int smmuEnabled = 1;
static u64 translations, aborts;

static struct stream *refetch(u32 streamId) { (void)streamId; return &nobody; } /* every stream is in the cache here */
static NOINLINE u64 translate(u32 streamId, int substreamId, u64 iova, u32 want) {
  translations++;
  if (!smmuEnabled) return ~0ull;
  struct stream *s = front[streamId & 4095];
  if (s->id != streamId) s = refetch(streamId);
  if (substreamId < 0 && s->kind == STREAM_STAGE2 && !(iova >> 48)) {
    u64 pa = tlbLookup(&s->tag, iova, want);
    if (!IS_FAULT(pa)) return pa;
    if (pa == TLB_MISS) {
      tlbMisses++;
      pa = walk(&s->regime, iova, want);
      if (!IS_FAULT(pa)) { tlbFill(&s->tag, iova, pa, walked.leafShift, walked.s2ap, walked.level); return pa; }
    }
  }
  aborts++;
  return ~0ull;
}

/* ---- ITS and LPIs */
#define DEVICE_TABLE (RAM_BASE + (1ull << 30))
#define COLLECTION_TABLE (DEVICE_TABLE + 0x100000)
#define ITTS (DEVICE_TABLE + 0x200000)
#define PROPERTIES (DEVICE_TABLE + 0x400000)
#define DOORBELL_PA 0x8090040ull
#define DOORBELL_IOVA 0x7f0000001040ull
#define CPUS 16
#define EVENTS_CACHED 4096
struct event { u32 device, event, lpi, cpu; }; /* lpi 0: none is cached here */
static struct { u32 generation, device, eventsMax; u64 itt; } devices[256];
static int32_t collections[65536];
static u32 generation = 1;

/* Of a PE: a byte for each LPI (configuration as it was read, and the pending state), and a tree of bitmaps for each
   priority, whose last level is two words; an LPI that is alone on offer is in `only` and in no tree. */
#define ENABLE 1
#define CACHED 2
#define PENDING 4
#define NOT_OFFERED 0x100
#define LOST 0x200
#define LPIS (65536 - 8192)
struct tree { u32 l0[2048], l1[64], l2[2]; };
static struct { uint8_t bytes[LPIS]; u32 accepted, pendingCount, levels, only; struct tree *offered[32]; } lpis[CPUS];
static inline void treeAdd(struct tree *t, u32 i) {
  u32 was = t->l0[i >> 5]; t->l0[i >> 5] = was | 1u << (i & 31); if (was) return; i >>= 5;
  was = t->l1[i >> 5]; t->l1[i >> 5] = was | 1u << (i & 31); if (was) return; i >>= 5;
  t->l2[i >> 5] |= 1u << (i & 31);
}
static inline int treeDelete(struct tree *t, u32 i) {
  if (t->l0[i >> 5] &= ~(1u << (i & 31))) return 1;
  i >>= 5;
  if (t->l1[i >> 5] &= ~(1u << (i & 31))) return 1;
  i >>= 5;
  t->l2[i >> 5] &= ~(1u << (i & 31));
  return t->l2[0] || t->l2[1];
}
static NOINLINE void offer(u32 cpu, u32 lpi, u32 byte) {
  u32 levels = lpis[cpu].levels;
  lpis[cpu].levels = levels | 1u << (byte >> 3);
  if (!levels) { lpis[cpu].only = lpi; return; }
  if (lpis[cpu].only) treeAdd(lpis[cpu].offered[__builtin_ctz(levels)], lpis[cpu].only);
  lpis[cpu].only = 0;
  treeAdd(lpis[cpu].offered[byte >> 3], lpi);
}
static NOINLINE void withdraw(u32 cpu, u32 lpi, u32 byte) {
  if (!(byte & ENABLE)) return;
  if (lpis[cpu].only == lpi) { lpis[cpu].only = 0; lpis[cpu].levels = 0; }
  else if (!treeDelete(lpis[cpu].offered[byte >> 3], lpi)) lpis[cpu].levels &= ~(1u << (byte >> 3));
}
static NOINLINE u32 raiseUnread(u32 cpu, u32 i);
static inline u32 raiseLpi(u32 cpu, u32 lpi) {
  u32 i = lpi - 8192, byte;
  if (i >= lpis[cpu].accepted) return LOST;
  byte = lpis[cpu].bytes[i];
  if (!byte) return raiseUnread(cpu, i);
  if (byte & PENDING) return NOT_OFFERED;
  lpis[cpu].bytes[i] = byte | PENDING;
  lpis[cpu].pendingCount++;
  if (!(byte & ENABLE)) return NOT_OFFERED;
  if (!lpis[cpu].levels) { lpis[cpu].levels = 1u << (byte >> 3); lpis[cpu].only = lpi; }
  else offer(cpu, lpi, byte);
  return byte & 0xf8;
}
static NOINLINE u32 raiseUnread(u32 cpu, u32 i) {
  u64 pa = PROPERTIES + i;
  u32 byte = (((uint8_t *)(words + chunkBase(pa >> CHUNK_SHIFT)))[pa & 0x1fffff] & 0xf9) | CACHED;
  if (!lpis[cpu].offered[byte >> 3]) lpis[cpu].offered[byte >> 3] = calloc(1, sizeof(struct tree));
  lpis[cpu].bytes[i] = byte;
  return raiseLpi(cpu, i + 8192);
}
static NOINLINE int clearPending(u32 cpu, u32 lpi) {
  u32 i = lpi - 8192, byte;
  if (i >= LPIS || !((byte = lpis[cpu].bytes[i]) & PENDING)) return 0;
  lpis[cpu].bytes[i] = byte & ~PENDING;
  lpis[cpu].pendingCount--;
  if (lpis[cpu].only == lpi) { lpis[cpu].only = 0; lpis[cpu].levels = 0; }
  else withdraw(cpu, lpi, byte);
  return 1;
}
static u32 foundLpi, foundIcid, foundCpu;
static int readEvent(u32 device, u32 event) {
  if (device >= 65536) return 0;
  u32 i = device & 255;
  u64 itt; u32 max;
  if (devices[i].generation == generation && devices[i].device == device) { itt = devices[i].itt; max = devices[i].eventsMax; }
  else {
    u64 dte = get64(DEVICE_TABLE + device * 8ull);
    if (!(dte >> 63)) return 0;
    itt = dte & 0x000fffffffffff00ull; max = 1u << ((dte & 31) + 1);
    devices[i].generation = generation; devices[i].device = device; devices[i].itt = itt; devices[i].eventsMax = max;
  }
  if (event >= max || chunkBase((itt + event * 8ull) >> CHUNK_SHIFT) < 0) return 0;
  u64 ite = get64(itt + event * 8ull);
  if (!(ite >> 63)) return 0;
  foundLpi = (u32)ite; foundIcid = (ite >> 32) & 0xffff;
  return foundLpi >= 8192 && foundLpi < 65536;
}
static inline int readCollection(u32 icid) {
  int32_t c = collections[icid];
  if (c >= 0) { foundCpu = c; return 1; }
  u64 cte = get64(COLLECTION_TABLE + icid * 8ull);
  if (!(cte >> 63)) return 0;
  collections[icid] = foundCpu = cte & 0xffff;
  return 1;
}
/* After a change: what is taken now has a priority below the PE's limit, whatever else is pending. Only where that does not
   decide it, everything that the PE is offered is looked at. */
u32 privateCandidates[CPUS], sharedCandidates, limitOf[CPUS];
int group1Enabled = 1;
static u64 signalled;
static NOINLINE void countSignal(u32 cpu) { (void)cpu; signalled++; }
void (*signalCpu)(u32 cpu) = countSignal;
static inline u32 lowest(u32 bits) { return __builtin_ctz(bits); }
static NOINLINE void update(u32 cpu) {
  if (!group1Enabled || privateCandidates[cpu] || sharedCandidates) return; /* there are none of these here */
  if (lpis[cpu].levels && lowest(lpis[cpu].levels) << 3 < limitOf[cpu]) signalCpu(cpu);
}
/* Where an ITS delivers: the redistributors, or a sum. */
struct sink { int (*hasProcessor)(u32 cpu); int (*setPending)(u32 cpu, u32 lpi); };
static NOINLINE int hasProcessor(u32 cpu) { return cpu < CPUS; }
static NOINLINE int gicSetPending(u32 cpu, u32 lpi) {
  u32 priority = raiseLpi(cpu, lpi);
  if (group1Enabled && priority < limitOf[cpu]) { signalCpu(cpu); return 1; }
  update(cpu);
  return priority <= NOT_OFFERED;
}
static u32 mixed;
static NOINLINE int sumSetPending(u32 cpu, u32 lpi) { mixed = MIX(mixed, cpu ^ lpi); return 1; }
static struct sink gicSink = { hasProcessor, gicSetPending }, sumSink = { hasProcessor, sumSetPending };
/* An ITS of several, and who a request comes from. */
struct its { u32 phandle; int enabled; struct sink *lpis; struct event *events; u64 delivered; u32 problems; };
struct requester { u32 rid, streamId; int substreamId; int64_t deviceId; int64_t (*deviceIdAt)(const struct requester *, u32 phandle); };
static NOINLINE int64_t deviceIdAt(const struct requester *r, u32 phandle) { (void)phandle; return r->deviceId; }
static NOINLINE int raiseUncached(struct its *its, struct sink *sink, u32 device, u32 event, struct event *e) {
  if (!readEvent(device, event) || !readCollection(foundIcid) || !sink->hasProcessor(foundCpu)) return 0;
  *e = (struct event){ device, event, foundLpi, foundCpu };
  (void)its;
  return sink->setPending(foundCpu, foundLpi);
}
static NOINLINE int itsRaise(struct its *its, struct sink *sink, u32 device, u32 event) {
  struct event *e = &its->events[(event ^ device * 0x9e5u) & (EVENTS_CACHED - 1)];
  if (e->device != device || e->event != event || !e->lpi) return raiseUncached(its, sink, device, event, e);
  return sink->setPending(e->cpu, e->lpi);
}
static NOINLINE void itsWrite(void *target, u32 offset, u32 size, u32 value, const struct requester *requester) {
  struct its *its = target;
  if (offset != 0x10040 || size < 2 || !requester) return;
  int64_t device = requester->deviceIdAt(requester, its->phandle);
  if (device < 0 || !its->enabled) { its->problems++; return; }
  if (itsRaise(its, its->lpis, device, value)) its->delivered++; else its->problems++;
}

/* ---- the bus */
struct region { u64 base, end; void *target; void (*write)(void *, u32, u32, u32, const struct requester *); };
static struct event cachedEvents[2][EVENTS_CACHED];
static struct its theIts = { 1, 1, &gicSink, cachedEvents[0], 0, 0 }, looker = { 2, 1, &sumSink, cachedEvents[1], 0, 0 };
struct region itsRegion = { 0x8080000ull, 0x80a0000ull, &theIts, itsWrite };
struct region *last = &itsRegion;
/* noclone: there would be a copy of it for 4 bytes at the one address that the test writes to. */
static NOINLINE __attribute__((noclone)) u32 dmaWrite(const struct requester *requester, u64 iova, const uint8_t *from, u32 size) {
  u32 done = 0;
  while (done < size) {
    u64 pa = translate(requester->streamId, requester->substreamId, iova, 2);
    if (IS_FAULT(pa)) return done;
    u32 run = tlbMask + 1 - ((u32)iova & tlbMask);
    if (run > size - done) run = size - done;
    int32_t base = chunkBase(pa >> CHUNK_SHIFT);
    if (base >= 0) memcpy((uint8_t *)(base ? words + base : claim(pa & ~0x1fffffull)) + (pa & 0x1fffff), from + done, run);
    else if (pa >= last->base && pa + run <= last->end && (run == 1 || run == 2 || run == 4) && !(pa & (run - 1))) {
      u32 v = from[done];
      if (run > 1) v |= from[done + 1] << 8;
      if (run == 4) v |= from[done + 2] << 16 | (u32)from[done + 3] << 24;
      last->write(last->target, pa - last->base, run, v, requester);
    } else return done;
    done += run; iova += run;
  }
  return done;
}

/* ---- the tests */
#define STREAM (1u << 19)
static u32 *anyPage, *hotPage, *sid, *messages, *sparse;
static struct regime near4, gib, tib;
static struct requester requesters[64];
static struct tag tag1 = { 1 << 5, 0x9e5 };
static double now(void) { struct timespec t; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
#define BOTH(pa) ((u32)((pa) >> 32) ^ (u32)(pa))
#define WANT(i) (1 + ((i) & 1))
#define ADDR(p, i) (IPA_BASE + ((u64)(p) << 12) + ((i) & 0xfff))

static u32 runWalk(const struct regime *r, const u32 *page, u32 step) {
  u32 sum = 0;
  for (u32 i = 0; i < STREAM; i++) { u64 pa = walk(r, IPA_BASE + ((u64)page[i] << 12) * step + (i & 0xfff), WANT(i)); sum = MIX(sum, BOTH(pa)); }
  return sum;
}
static u32 runTlb(void) {
  u32 sum = 0;
  for (u32 i = 0; i < STREAM; i++) { u64 pa = lookup(&tag1, ADDR(hotPage[i], i), WANT(i)); sum = MIX(sum, BOTH(pa)); }
  return sum;
}
static u32 runSmmu(const u32 *page, const u32 *streamOf) {
  u32 sum = 0;
  for (u32 i = 0; i < STREAM; i++) { u64 pa = translate(streamOf ? streamOf[i] : 0x10, -1, ADDR(page[i], i), WANT(i)); sum = MIX(sum, BOTH(pa)); }
  return sum;
}
static u32 runIts(void) {
  mixed = 0;
  for (u32 i = 0; i < STREAM; i++) itsRaise(&looker, &sumSink, messages[i] >> 16, messages[i] & 0xffff);
  return mixed;
}
static u32 runMsi(void) {
  u32 sum = 0;
  uint8_t data[4] = { 0, 0, 0, 0 };
  for (u32 i = 0; i < STREAM; i++) {
    u32 device = messages[i] >> 16, event = messages[i] & 0xffff;
    data[0] = event;
    u32 done = dmaWrite(&requesters[device - 0x100], DOORBELL_IOVA, data, 4);
    u32 lpi = 8192 + (device - 0x100) * 32 + event;
    sum = MIX(sum, clearPending(lpi & 15, lpi) ? lpi ^ done : 1);
  }
  return sum;
}

int main(void) {
  makeRam();
  for (u32 i = 0; i < POOL_PAGES; i++) perm[i] = i;
  for (u32 i = POOL_PAGES - 1; i > 0; i--) { u32 j = rnd() % (i + 1), t = perm[i]; perm[i] = perm[j]; perm[j] = t; }
  u64 root = allocNear();
  near4 = (struct regime){ root, 0, 48, 48, 12, 1 << 10 };
  for (u32 i = 0; i < PAGES; i++) map4k(root, IPA_BASE + ((u64)i << 12), OUT_BASE + ((u64)((i * 2654435761u) & (PAGES - 1)) << 12), allocNear);
  put64(allocNear(), 0);
  map4k(root, DOORBELL_IOVA & ~0xfffull, DOORBELL_PA & ~0xfffull, allocNear);
  /* 512 pages, every 2 MiB of 1 GiB, and every 2 GiB of 1 TiB with the tables all over the memory */
  gib = (struct regime){ allocNear(), 0, 48, 48, 12, 1 << 10 };
  tib = (struct regime){ allocFar(), 0, 48, 48, 12, 1 << 10 };
  put64(tib.root, 0);
  for (u32 i = 0; i < 512; i++) {
    map4k(gib.root, IPA_BASE + ((u64)i << 21), OUT_BASE + ((u64)i << 12), allocNear);
    map4k(tib.root, IPA_BASE + ((u64)i << 31), OUT_BASE + ((u64)i << 12), allocFar);
  }
  for (u32 i = 0; i < 4096; i++) {
    struct stream *s = malloc(sizeof *s);
    *s = (struct stream){ i, STREAM_STAGE2, tag1, near4 };
    front[i] = s;
  }
  memset(collections, 0xff, sizeof collections);
  for (u32 i = 0; i < CPUS; i++) { lpis[i].accepted = LPIS; limitOf[i] = 0xf8; }
  for (u32 i = 0; i < 16; i++) put64(COLLECTION_TABLE + i * 8, (1ull << 63) | i);
  for (u32 k = 0; k < 64; k++) {
    requesters[k] = (struct requester){ 0x100 + k, 0x10, -1, 0x100 + k, deviceIdAt };
    u64 itt = ITTS + k * 0x1000;
    put64(DEVICE_TABLE + (0x100 + k) * 8ull, (1ull << 63) | itt | 4);
    for (u32 e = 0; e < 32; e++) put64(itt + e * 8, ((u64)(0x80000000u | ((k * 32 + e) & 15)) << 32) | (8192 + k * 32 + e));
  }
  for (u32 i = 0; i < 2048; i += 4) *claim(PROPERTIES + i) = 0xa1a1a1a1u;

  anyPage = malloc(STREAM * 4); hotPage = malloc(STREAM * 4); sid = malloc(STREAM * 4); messages = malloc(STREAM * 4); sparse = malloc(STREAM * 4);
  for (u32 i = 0; i < STREAM; i++) anyPage[i] = rnd() & (PAGES - 1);
  for (u32 i = 0; i < STREAM; i++) hotPage[i] = 8192 + (rnd() & 1023);
  for (u32 i = 0; i < STREAM; i++) sid[i] = rnd() & 4095;
  for (u32 i = 0; i < STREAM; i++) { u32 r = rnd(); messages[i] = (0x100 + ((r >> 8) & 63)) << 16 | (r & 31); }
  for (u32 i = 0; i < STREAM; i++) sparse[i] = rnd() & 511;
  for (u32 p = 8192; p < 8192 + 1024; p++) translate(0x10, -1, ADDR(p, 0), 1);

  puts("ready"); fflush(stdout);
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    char name[32];
    u32 loops, sum = 0;
    if (sscanf(line, "%31s %u", name, &loops) != 2) break;
    double t = now();
    for (u32 l = 0; l < loops; l++) {
      if (!strcmp(name, "walk")) sum = sum * 31 + runWalk(&near4, anyPage, 1);
      else if (!strcmp(name, "walk-1gib")) sum = sum * 31 + runWalk(&gib, sparse, 512);
      else if (!strcmp(name, "walk-1tib")) sum = sum * 31 + runWalk(&tib, sparse, 512 * 1024);
      else if (!strcmp(name, "tlb-hit")) sum = sum * 31 + runTlb();
      else if (!strcmp(name, "smmu-hit")) sum = sum * 31 + runSmmu(hotPage, NULL);
      else if (!strcmp(name, "smmu-hit-4096")) sum = sum * 31 + runSmmu(hotPage, sid);
      else if (!strcmp(name, "smmu-miss")) sum = sum * 31 + runSmmu(anyPage, NULL);
      else if (!strcmp(name, "its")) sum = sum * 31 + runIts();
      else if (!strcmp(name, "msi")) sum = sum * 31 + runMsi();
      else return 1;
    }
    t = now() - t;
    for (u32 p = 8192; p < 8192 + 1024; p++) translate(0x10, -1, ADDR(p, 0), 1);
    printf("{\"ops\":%u,\"seconds\":%.9f,\"sum\":%u}\n", STREAM * loops, t, sum);
    fflush(stdout);
  }
  return 0;
}
