/** Pins of functions (PCI-to-PCI Bridge Architecture, "Interrupt Routing"). */

/** INTA to INTD as they stand in the Interrupt Pin register; 0 is a function without a pin. */
export const PCI_PIN = { NONE: 0, A: 1, D: 4 } as const;

/** The pin (1 to 4) on which pin `pin` of device `device` leaves the bus through the bridge above. */
export function swizzle(pin: number, device: number): number {
  return ((pin - 1 + device) % 4) + 1;
}
