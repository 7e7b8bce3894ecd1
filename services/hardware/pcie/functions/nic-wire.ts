/**
 * The wire between the NICs of a board: a frame that one function sends is offered at once to every other enabled one,
 * and each filters for itself. A function sees a link while another one is enabled.
 * Not modelled: collisions, switches that learn, pause frames, errors on the way; a wire loses nothing itself.
 */

export interface WirePort {
  readonly enabled: boolean;
  /** The frame is the sender's: what is kept of it has to be copied. */
  offer(frame: Uint8Array): void;
  /** Others of the wire have come up or gone down. */
  carrierChanged(): void;
}

export class NicWire {
  readonly #ports: WirePort[] = [];

  join(port: WirePort): void {
    this.#ports.push(port);
  }

  /** Whether any function but this one is enabled. */
  carrierFor(port: WirePort): boolean {
    return this.#ports.some((other) => other !== port && other.enabled);
  }

  send(from: WirePort, frame: Uint8Array): void {
    for (const port of this.#ports) if (port !== from && port.enabled) port.offer(frame);
  }

  /** `from` was enabled or disabled. */
  changed(from: WirePort): void {
    for (const port of this.#ports) if (port !== from) port.carrierChanged();
  }
}

/** The wires of a board by name. */
export class NicWires {
  readonly #wires = new Map<string, NicWire>();

  named(name: string): NicWire {
    let wire = this.#wires.get(name);
    if (wire === undefined) {
      wire = new NicWire();
      this.#wires.set(name, wire);
    }
    return wire;
  }
}
