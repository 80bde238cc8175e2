/* The errors of the library: one readable line each. */

/** A file that breaks a rule of the format, a wrong argument, or damaged weights. */
export class BulletError extends Error {
  constructor(message) {
    super(message);
    this.name = "BulletError";
  }
}
