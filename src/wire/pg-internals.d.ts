// pg's value serialization, which its public types leave out.
declare module 'pg/lib/utils.js' {
  export function prepareValue(value: unknown): unknown
}
