// Writes tokens.jsonl: each text with its number of tokens in both encodings. Two implementations count
// the tokens: gpt-tokenizer in JavaScript, and tiktoken's own core as WebAssembly. Both have their own
// vocabularies, and share no code with the service. If their counts of a text differ, the text is printed
// and nothing is written. Special tokens count as ordinary text.
//
//   npm ci && npm run reference

import { writeFileSync } from 'node:fs'
import { countTokens as cl100k } from 'gpt-tokenizer/encoding/cl100k_base'
import { countTokens as o200k } from 'gpt-tokenizer/encoding/o200k_base'
import { get_encoding } from 'tiktoken'
import texts from './texts.mjs'

const ordinary = { disallowedSpecial: new Set() }
const core = { o200k_base: get_encoding('o200k_base'), cl100k_base: get_encoding('cl100k_base') }
const script = { o200k_base: o200k, cl100k_base: cl100k }

// For these two characters, white space in JavaScript differs from Unicode. Only tiktoken's core counts them right.
const spaceDiffers = /[\u0085\ufeff]/

let disagreements = 0
const lines = texts.map(({ kind, text }) => {
  const line = { kind, text }
  for (const encoding of ['o200k_base', 'cl100k_base']) {
    const wasm = core[encoding].encode_ordinary(text).length
    line[encoding] = spaceDiffers.test(text) ? wasm : script[encoding](text, ordinary)
    if (wasm !== line[encoding]) {
      disagreements += 1
      console.error(`${encoding}: ${line[encoding]} or ${wasm}? ${JSON.stringify(text)}`)
    }
  }
  return JSON.stringify(line)
})
if (new Set(lines).size !== lines.length) throw new Error('a text occurs twice')
if (disagreements === 0) {
  writeFileSync(new URL('tokens.jsonl', import.meta.url), `${lines.join('\n')}\n`)
  console.log(`${lines.length} texts`)
} else {
  process.exitCode = 1
}
