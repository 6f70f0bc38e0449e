// A js-libp2p node for test_libp2p_interop.py: one JSON command a line in, one JSON answer a line out.
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { create as createDigest } from 'multiformats/hashes/digest'

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const bytes = (text) => new Uint8Array(Buffer.from(text, 'hex'))
const cid = (digest) => CID.createV1(raw.code, createDigest(0x12, bytes(digest)))
const sequence = (value) => parseInt(Buffer.from(value).toString().split(':')[0])

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({
      protocol: '/ipfs/kad/1.0.0',
      clientMode: false,
      peerInfoMapper: passthroughMapper,
      validators: {
        kwaai: async (key, value) => {
          if (!Buffer.from(value).toString().endsWith(':' + Buffer.from(key).toString())) {
            throw new Error('a wrong value')
          }
        }
      },
      selectors: {
        kwaai: (key, values) => values.reduce((b, v, i) => sequence(v) > sequence(values[b]) ? i : b, 0)
      }
    })
  }
})

async function exchange (stream, data) {
  stream.send(data)
  const parts = []
  for await (const part of stream) {
    parts.push(Buffer.from(part.subarray()))
  }
  await stream.close()
  return Buffer.concat(parts)
}

const commands = {
  addresses: () => node.getMultiaddrs().map(String),
  connect: async ({ address }) => { await node.dial(multiaddr(address)) },
  connections: () => node.getConnections().map(c => String(c.remotePeer)),
  identify: async ({ peer }) => {
    const { protocols, metadata, addresses } = await node.peerStore.get(peerIdFromString(peer))
    const agent = metadata.get('AgentVersion')
    return { protocols, agent: agent && Buffer.from(agent).toString(), addresses: addresses.map(a => String(a.multiaddr)) }
  },
  ping: async ({ peer }) => node.services.ping.ping(peerIdFromString(peer)),
  request: async ({ peer, protocol, data }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), protocol)
    return hex(await exchange(stream, bytes(data)))
  },
  put: async ({ key, value }) => {
    const stored = []
    for await (const event of node.services.dht.put(bytes(key), bytes(value))) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'PUT_VALUE') stored.push(String(event.from))
    }
    return stored
  },
  get: async ({ key }) => {
    for await (const event of node.services.dht.get(bytes(key))) {
      if (event.name === 'VALUE') return hex(event.value)
    }
    return null
  },
  provide: async ({ digest }) => { for await (const _ of node.services.dht.provide(cid(digest))) { /* all */ } },
  providers: async ({ digest }) => {
    const found = new Set()
    for await (const event of node.services.dht.findProviders(cid(digest))) {
      if (event.name === 'PROVIDER') event.providers.forEach(p => found.add(String(p.id)))
    }
    return [...found]
  },
  findPeer: async ({ peer }) => {
    for await (const event of node.services.dht.findPeer(peerIdFromString(peer))) {
      if (event.name === 'FINAL_PEER') return event.peer.multiaddrs.map(String)
    }
    return null
  }
}

await node.handle('/test/js-echo/1', async (stream) => {
  // Our request framing: four bytes of length, the body; back: a status, the same.
  let data = Buffer.alloc(0)
  for await (const part of stream) {
    data = Buffer.concat([data, Buffer.from(part.subarray())])
    if (data.length >= 4 && data.length >= 4 + data.readUInt32BE(0)) break
  }
  stream.send(Buffer.concat([Buffer.from([0]), data]))
  await stream.close()
})

console.log(JSON.stringify({ id: 0, value: { peer: String(node.peerId), addresses: node.getMultiaddrs().map(String) } }))
for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...options } = JSON.parse(line)
  Promise.resolve().then(() => commands[command](options)).then(
    value => console.log(JSON.stringify({ id, value: value ?? null })),
    error => console.log(JSON.stringify({ id, error: String(error) }))
  )
}
await node.stop()
process.exit(0)
