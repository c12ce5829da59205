// The version of this package, as package.json has it (a test keeps them in step): reading that file would be I/O
// at import.

export const VERSION = '0.1.0'
