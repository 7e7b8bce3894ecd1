/**
 * A TLB of stage-2 results by VMID and IPA: direct-mapped, one part for 4 KiB pages and one for 2 MiB pieces (a 1 GiB
 * leaf is held as such pieces). It holds what a walk found, with its permissions, until it is invalidated or another
 * entry takes the place; it never holds a fault. One for the CPUs, one in each SMMU.
 * Entries are filled for every page, so a result stays stale until its invalidation, as on silicon.
 */
import { DFSC } from '#shared/arch/vmsa.ts';

const PAGES = 4096;
const BLOCKS = 1024;
const BLOCK_BYTES = 0x20_0000;
const VMIDS = 0x1_0000;

export class Tlb {
  /** Entries [0, PAGES) are pages, the rest blocks. Key: frame number * 2^16 + VMID, exact in a double; -1 empty. */
  readonly #keys = new Float64Array(PAGES + BLOCKS).fill(-1);
  readonly #pas = new Float64Array(PAGES + BLOCKS);
  /** S2AP in [1:0], the leaf's level in [3:2]. */
  readonly #attributes = new Uint8Array(PAGES + BLOCKS);
  readonly #generations = new Uint32Array(PAGES + BLOCKS);
  readonly #generationByVmid = new Uint32Array(VMIDS);
  /** Of the last lookup that was answered: bytes from the address to the end of the entry. */
  runBytes = 0;
  hits = 0;
  misses = 0;
  invalidations = 0;

  /**
   * Translates from what is cached. Returns the physical address, `~dfsc` for an entry without the permission `want`
   * (WANT_READ, WANT_WRITE), or -Infinity when nothing is cached.
   */
  lookup(vmid: number, ipa: number, want: number): number {
    const generation = this.#generationByVmid[vmid]!;
    const page = Math.floor(ipa / 0x1000);
    let i = pageIndex(page, vmid);
    if (this.#keys[i] !== page * VMIDS + vmid || this.#generations[i] !== generation) {
      const block = Math.floor(ipa / BLOCK_BYTES);
      i = blockIndex(block, vmid);
      if (this.#keys[i] !== block * VMIDS + vmid || this.#generations[i] !== generation) {
        this.misses++;
        return -Infinity;
      }
    }
    this.hits++;
    const attributes = this.#attributes[i]!;
    if ((attributes & want) !== want) return ~(DFSC.PERMISSION | (attributes >>> 2));
    const mask = i < PAGES ? 0xfff : BLOCK_BYTES - 1;
    const offset = ipa & mask;
    this.runBytes = mask + 1 - offset;
    return this.#pas[i]! + offset;
  }

  /** Keeps the result of a walk: the leaf of `leafBytes` at `leafPa` that holds `ipa`. Sets `runBytes` for `ipa`. */
  fill(vmid: number, ipa: number, leafPa: number, leafBytes: number, s2ap: number, level: number): void {
    const bytes = leafBytes === 0x1000 ? 0x1000 : BLOCK_BYTES;
    const frame = Math.floor(ipa / bytes);
    const i = bytes === 0x1000 ? pageIndex(frame, vmid) : blockIndex(frame, vmid);
    const start = frame * bytes;
    this.#keys[i] = frame * VMIDS + vmid;
    this.#pas[i] = leafPa + (start % leafBytes);
    this.#attributes[i] = s2ap | (level << 2);
    this.#generations[i] = this.#generationByVmid[vmid]!;
    this.runBytes = start + bytes - ipa;
  }

  /** Everything of one VMID (TLBI VMALLS12E1IS, CMD_TLBI_S12_VMALL), without a look at the entries. */
  invalidateVmid(vmid: number): void {
    this.invalidations++;
    const next = (this.#generationByVmid[vmid]! + 1) >>> 0;
    this.#generationByVmid[vmid] = next;
    if (next === 0) this.#keys.fill(-1); // an entry of 2^32 invalidations ago must not come back to life
  }

  /** The entries of one VMID that hold `ipa` (TLBI IPAS2E1IS, CMD_TLBI_S2_IPA), whatever the size of their leaf. */
  invalidateIpa(vmid: number, ipa: number): void {
    this.invalidations++;
    const page = Math.floor(ipa / 0x1000);
    const i = pageIndex(page, vmid);
    if (this.#keys[i] === page * VMIDS + vmid) this.#keys[i] = -1;
    // A 1 GiB leaf lies in many entries; one address drops them all.
    const gib = Math.floor(ipa / 0x4000_0000);
    const block = Math.floor(ipa / BLOCK_BYTES);
    for (let j = PAGES; j < PAGES + BLOCKS; j++) {
      const key = this.#keys[j]!;
      if (key < 0 || key % VMIDS !== vmid) continue;
      const held = Math.floor(key / VMIDS);
      const ofGib = this.#attributes[j]! >>> 2 === 1 && Math.floor(held / 512) === gib;
      if (held === block || ofGib) this.#keys[j] = -1;
    }
  }

  /** Everything (TLBI ALLE1IS, CMD_TLBI_NSNH_ALL). */
  invalidateAll(): void {
    this.invalidations++;
    this.#keys.fill(-1);
  }

  /** What is held now, for checkers: one row a live entry. */
  entries(): { vmid: number; ipa: number; pa: number; bytes: number; s2ap: number }[] {
    const rows: { vmid: number; ipa: number; pa: number; bytes: number; s2ap: number }[] = [];
    for (let i = 0; i < PAGES + BLOCKS; i++) {
      const key = this.#keys[i]!;
      if (key < 0) continue;
      const vmid = key % VMIDS;
      if (this.#generations[i] !== this.#generationByVmid[vmid]) continue;
      const bytes = i < PAGES ? 0x1000 : BLOCK_BYTES;
      rows.push({
        vmid,
        ipa: Math.floor(key / VMIDS) * bytes,
        pa: this.#pas[i]!,
        bytes,
        s2ap: this.#attributes[i]! & 3,
      });
    }
    return rows;
  }

  /** Power-on: empty, and the counts too. */
  reset(): void {
    this.#keys.fill(-1);
    this.hits = 0;
    this.misses = 0;
    this.invalidations = 0;
  }
}

function pageIndex(page: number, vmid: number): number {
  return (page ^ Math.imul(vmid, 0x9e5)) & (PAGES - 1);
}

function blockIndex(block: number, vmid: number): number {
  return PAGES + ((block ^ Math.imul(vmid, 0x9e5)) & (BLOCKS - 1));
}
