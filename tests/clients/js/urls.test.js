import assert from 'node:assert/strict'
import { test } from 'node:test'
import { shareSandbox } from './sandboxes.js'

const shared = shareSandbox()

test('downloadUrl, as it is and with an end', async () => {
  const { sandbox } = shared
  await sandbox.files.write('a b.txt', 'by signature')
  for (const options of [{}, { useSignatureExpiration: 60_000 }, { user: 'root' }]) {
    const answer = await fetch(await sandbox.downloadUrl('/home/user/a b.txt', options))
    assert.equal(await answer.text(), 'by signature')
  }
})

test('uploadUrl', async () => {
  const { sandbox } = shared
  const body = new FormData()
  body.append('file', new Blob(['uploaded']))
  const answer = await fetch(await sandbox.uploadUrl('up.txt'), { method: 'POST', body })
  assert.equal(answer.status, 200)
  assert.equal(await sandbox.files.read('up.txt'), 'uploaded')
})

test('an expired and a forged url', async () => {
  const { sandbox } = shared
  await sandbox.files.write('c.txt', 'c')
  const expired = await fetch(await sandbox.downloadUrl('c.txt', { useSignatureExpiration: -1_000 }))
  assert.equal(expired.status, 401)
  assert.deepEqual(await expired.json(), { code: 401, message: 'signature is already expired' })
  const forged = (await sandbox.downloadUrl('c.txt')).replace('c.txt', 'd.txt')
  assert.notEqual((await fetch(forged)).status, 200)
})
