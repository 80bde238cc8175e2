/** An error with one readable line: a damaged file, a wrong argument. */
export class BulletError extends Error {}

export interface LoadOptions {
  /** Compare the checksum at the end of the file first. Default: false. */
  verify?: boolean;
  /** Round activations to 8 bits instead of 16. Default: false. */
  turbo?: boolean;
  /** Use 128-bit vectors. Default: whether this browser has them. */
  simd?: boolean;
  /** The instruction set: "simd128" or "portable". Default: the fastest. */
  kernels?: "simd128" | "portable";
}

export interface Message {
  role: "system" | "developer" | "user" | "assistant";
  content: string;
}

export interface GenerateOptions {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  maxTokens?: number;
  /** The same seed gives the same text. */
  seed?: number;
  /** Strings that end the answer; they are not part of it. */
  stop?: readonly string[];
  /** Stops the answer when it is aborted. */
  signal?: AbortSignal;
  /** The sequence to use, for several answers at once. Default: one that belongs to the model. */
  session?: Session;
  /** Tokens at the beginning that stay when the context is full. */
  keep?: number;
}

export interface Token {
  id: number;
  /** The text that became final with this token, in whole letters; often "". */
  text: string;
}

export interface Prompt {
  ids: number[];
  /** Tokens at the beginning that stay when the context is full. */
  keep: number;
  omittedMessages: number;
  omittedTokens: number;
}

/** One sequence with its keys and values. */
export class Session {
  private constructor();
  readonly finishReason: "stop" | "length" | "abort" | null;
  readonly promptTokens: number;
  readonly reusedTokens: number;
  close(): void;
}

export class Model {
  private constructor();
  /** The header of the file: name, license, languages, training ... */
  readonly header: Record<string, unknown>;
  /** Sizes of the model: vocab_size, dim, n_layers ... */
  readonly shape: Readonly<Record<string, number | boolean>>;
  /** The default settings, under their names in the file. */
  readonly sampling: Readonly<Record<string, number>>;
  readonly kernels: "simd128" | "portable";
  /** Bytes of the memory of WebAssembly. */
  readonly memoryBytes: number;
  tokenize(text: string): number[];
  detokenize(ids: Iterable<number>): string;
  prompt(input: string | readonly Message[], maxTokens?: number): Prompt;
  logits(ids: readonly number[], all?: boolean): Float32Array;
  newSession(): Session;
  generate(input: string | readonly Message[] | readonly number[], options?: GenerateOptions): AsyncGenerator<Token, void, void>;
  close(): void;
}

/** Load a .bullet file from its bytes. */
export function load(model: ArrayBuffer | Uint8Array, options?: LoadOptions): Promise<Model>;
