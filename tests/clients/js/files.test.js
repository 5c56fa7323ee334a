import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { FileNotFoundError, FileType, InvalidArgumentError } from 'e2b'
import { shareSandbox } from './sandboxes.js'

const shared = shareSandbox()

test('text', async () => {
  const { files } = shared.sandbox
  for (const text of ['plain', '', 'ünïcödé €', 'line\r\nline\n'.repeat(10_000)]) {
    const written = await files.write('text.txt', text)
    assert.equal(written.path, '/home/user/text.txt')
    assert.equal(written.name, 'text.txt')
    assert.equal(await files.read('text.txt'), text)
  }
})

test('bytes, blobs and streams', async () => {
  const { files } = shared.sandbox
  const data = new Uint8Array(randomBytes(1_000_000))
  await files.write('a.bin', data.buffer)
  assert.deepEqual(await files.read('a.bin', { format: 'bytes' }), data)
  await files.write('b.bin', new Blob([data]))
  const blob = await files.read('b.bin', { format: 'blob' })
  assert.deepEqual(new Uint8Array(await blob.arrayBuffer()), data)
  await files.write('c.bin', new Blob([data]).stream())
  const chunks = await Array.fromAsync(await files.read('c.bin', { format: 'stream' }))
  assert.deepEqual(new Uint8Array(Buffer.concat(chunks)), data)
})

test('as an octet stream, with gzip', async () => {
  const { files } = shared.sandbox
  const text = 'compress me '.repeat(10_000)
  await files.write('gz.txt', text, { gzip: true, useOctetStream: true })
  assert.equal(await files.read('gz.txt'), text)
  assert.equal(await files.read('gz.txt', { gzip: true }), text)
})

test('many files in one call', async () => {
  const { files } = shared.sandbox
  const entries = [...Array(10).keys()].map((n) => ({ path: `many/dir ${n}/f.txt`, data: `${n}` }))
  const paths = entries.map((each) => `/home/user/${each.path}`)
  assert.deepEqual((await files.write(entries)).map((each) => each.path), paths)
  assert.deepEqual((await files.writeFiles(entries)).map((each) => each.path), paths)
  for (const { path, data } of entries) assert.equal(await files.read(path), data)
})

test('getInfo, exists, rename, remove', async () => {
  const { files } = shared.sandbox
  await files.write('one.txt', '12345')
  const info = await files.getInfo('one.txt')
  assert.equal(info.path, '/home/user/one.txt')
  assert.equal(info.size, 5)
  assert.equal(info.type, FileType.FILE)
  assert.equal(info.mode, 0o644)
  assert.equal(info.permissions, '-rw-r--r--')
  assert.deepEqual([info.owner, info.group], ['user', 'user'])
  assert.ok(info.modifiedTime instanceof Date)
  assert.equal(info.symlinkTarget, undefined)
  assert.equal(await files.exists('one.txt'), true)
  assert.equal((await files.rename('one.txt', 'two.txt')).path, '/home/user/two.txt')
  assert.equal(await files.exists('one.txt'), false)
  await files.remove('two.txt')
  await files.remove('two.txt')
  await assert.rejects(files.getInfo('two.txt'), FileNotFoundError)
  await assert.rejects(files.read('two.txt'), FileNotFoundError)
  await assert.rejects(files.rename('two.txt', 'three.txt'), FileNotFoundError)
})

test('list and makeDir', async () => {
  const { files } = shared.sandbox
  assert.equal(await files.makeDir('tree/branch'), true)
  assert.equal(await files.makeDir('tree/branch'), false)
  await files.write('tree/leaf', 'x')
  await files.write('tree/branch/leaf', 'y')
  const paths = (entries) => entries.map((each) => each.path).sort()
  assert.deepEqual(paths(await files.list('tree')), ['/home/user/tree/branch', '/home/user/tree/leaf'])
  assert.equal((await files.list('tree', { depth: 2 })).length, 3)
  await assert.rejects(files.list('tree/leaf'), InvalidArgumentError)
  await assert.rejects(files.list('no-tree'), FileNotFoundError)
})

test('as another user', async () => {
  const { files } = shared.sandbox
  await files.write('/root/secret', 'x', { user: 'root' })
  assert.equal(await files.read('/root/secret', { user: 'root' }), 'x')
  await assert.rejects(files.read('/root/secret'))
})
