/** Where the files lie; by default beside the module. An ArrayBuffer is taken as it is. */
export interface LoadOptions {
  /** Weights: the `.bin` that `enhance export --web` or `--c` wrote. */
  url?: string | URL | ArrayBuffer;
  wasm?: string | URL | ArrayBuffer;
  worklet?: string | URL;
}

/** A model that was loaded; any number of nodes and contexts may share it. */
export interface Enhance {
  /** Samples per second of the model; contexts may have any rate. */
  readonly sampleRate: number;
  /** Text entries that the exporter wrote: licence, framing, training. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Samples by which the output is late in a context of this rate. */
  latencySamples(rate: number): number;
  /** Load the worklet into a context, once; then `new EnhanceNode(context, enhance)`. */
  register(context: BaseAudioContext): Promise<void>;
  /** Both at once. */
  createNode(context: BaseAudioContext, options?: EnhanceOptions): Promise<EnhanceNode>;
}

export interface EnhanceOptions {
  /** Each has a stream of its own; 1 (the default) mixes down. */
  channels?: number;
  /** Keep what lies above the model's band, with the gain of the band below it. Default: true. */
  fullBand?: boolean;
  /** Share of the model's work that is kept, 0 to 1. Default: 1. */
  strength?: number;
  /** Most decibels by which anything is suppressed. Default: null, no limit. */
  attenLimit?: number | null;
}

export function isSupported(): boolean;

/** Load a model; rejects, in one line, where a file is missing or its bytes are not right. */
export function loadEnhance(options?: LoadOptions): Promise<Enhance>;

/**
 * Enhances what passes through it. Where the audio thread cannot go on, silence comes out and
 * "processorerror" (an `ErrorEvent`, for `addEventListener`) says why: noise never passes as if it
 * were enhanced. "report" comes four times a second, when `seconds`, `underruns` and
 * `realTimeFactor` are new.
 */
export class EnhanceNode extends AudioWorkletNode {
  constructor(context: BaseAudioContext, enhance: Enhance, options?: EnhanceOptions);
  /** Off, the input comes out, as late as it is otherwise. */
  enabled: boolean;
  strength: number;
  attenLimit: number | null;
  /** Samples of the context by which the output is late. */
  readonly latencySamples: number;
  /** Seconds in which the audio clock lost 5 ms or more to the wall clock. */
  readonly underruns: number;
  /** Of audio, enhanced so far. */
  readonly seconds: number;
  /** Seconds of computing for a second of audio, since the beginning; null before it is known. */
  readonly realTimeFactor: number | null;
  /** Kept when the audio thread can enhance, broken when it cannot. */
  readonly ready: Promise<void>;
  /** Stop for good and free the memory. */
  destroy(): void;
}

export interface TrackOptions extends EnhanceOptions {
  /** By default the model beside the module. */
  enhance?: Enhance;
  /** By default one of its own, closed by `stop`. */
  context?: AudioContext;
}

export interface EnhancedTrack {
  readonly track: MediaStreamTrack;
  readonly node: EnhanceNode;
  /** The track that came in goes on; it stops too where that one ends. */
  stop(): void;
}

/** A track of a microphone, enhanced. Call it from a click, or the browser may keep it silent. */
export function enhanceTrack(track: MediaStreamTrack, options?: TrackOptions): Promise<EnhancedTrack>;

/** LiveKit's `TrackProcessor<Track.Kind.Audio, AudioProcessorOptions>`. */
export class EnhanceProcessor {
  constructor(options?: Omit<TrackOptions, "context">);
  readonly name: string;
  processedTrack?: MediaStreamTrack;
  readonly node: EnhanceNode | undefined;
  init(options: { track: MediaStreamTrack; audioContext: AudioContext }): Promise<void>;
  restart(options: { track: MediaStreamTrack; audioContext: AudioContext }): Promise<void>;
  destroy(): Promise<void>;
}
