// Digital Bazaar's libraries for test_credentials_interop.py: {contexts, jobs} on stdin, a list of
// answers on stdout. A job signs or verifies one credential or presentation. No network: contexts
// are given, and did:key documents are made here.
import * as vc from '@digitalbazaar/vc'
import * as Ed25519Multikey from '@digitalbazaar/ed25519-multikey'
import * as jcs from '@digitalbazaar/eddsa-jcs-2022-cryptosuite'
import {cryptosuite as rdfc} from '@digitalbazaar/eddsa-rdfc-2022-cryptosuite'
import {DataIntegrityProof} from '@digitalbazaar/data-integrity'
import {Ed25519Signature2020} from '@digitalbazaar/ed25519-signature-2020'
import {Ed25519VerificationKey2020} from '@digitalbazaar/ed25519-verification-key-2020'

const chunks = []
for await (const chunk of process.stdin) chunks.push(chunk)
const {contexts, jobs} = JSON.parse(Buffer.concat(chunks).toString('utf8'))

const document = (documentUrl, document) => ({contextUrl: null, documentUrl, document})

function didKey(url) {
  const [did, fragment] = url.split('#')
  const multikey = did.slice('did:key:'.length)
  const id = `${did}#${multikey}`
  const method = {
    '@context': 'https://w3id.org/security/multikey/v1',
    id, type: 'Multikey', controller: did, publicKeyMultibase: multikey,
  }
  if (fragment === multikey) return method
  return {
    '@context': ['https://www.w3.org/ns/did/v1', 'https://w3id.org/security/multikey/v1'],
    id: did, verificationMethod: [method], assertionMethod: [id], authentication: [id],
  }
}

// Keys of Ed25519Signature2020 have a type of their own.
const withOldKeys = loader => async url => {
  const found = await loader(url)
  if (!url.startsWith('did:key:') || !url.includes('#')) return found
  return document(url, {
    ...found.document,
    '@context': 'https://w3id.org/security/suites/ed25519-2020/v1',
    type: 'Ed25519VerificationKey2020',
  })
}

async function documentLoader(url) {
  if (contexts[url]) return document(url, contexts[url])
  if (url.startsWith('did:key:')) return document(url, didKey(url))
  throw new Error(`nothing is fetched: ${url}`)
}

async function signer(job) {
  const controller = `did:key:${job.publicKeyMultibase}`
  const key = {
    id: `${controller}#${job.publicKeyMultibase}`, controller,
    publicKeyMultibase: job.publicKeyMultibase,
  }
  if (job.suite === 'Ed25519Signature2020') {
    return new Ed25519Signature2020({
      key: await Ed25519VerificationKey2020.from({
        ...key, type: 'Ed25519VerificationKey2020', privateKeyMultibase: job.secretKeyMultibase,
      }),
      date: job.created,
    })
  }
  const pair = await Ed25519Multikey.from({
    ...key, '@context': 'https://w3id.org/security/multikey/v1', type: 'Multikey',
    secretKeyMultibase: job.secretKeyMultibase,
  })
  const cryptosuite = job.suite === 'eddsa-jcs-2022' ? jcs.createSignCryptosuite() : rdfc
  return new DataIntegrityProof({signer: pair.signer(), cryptosuite, date: job.created})
}

const verifiers = job => {
  if (job.suite === 'Ed25519Signature2020') return new Ed25519Signature2020()
  return [
    new DataIntegrityProof({cryptosuite: jcs.createVerifyCryptosuite()}),
    new DataIntegrityProof({cryptosuite: rdfc}),
  ]
}

function reasons(error) {
  if (!error) return []
  return [String(error.message ?? error), ...(error.errors ?? []).flatMap(reasons)]
}

const answered = ({verified, error}) => ({verified, reasons: reasons(error)})

const commands = {
  async sign(job) {
    const suite = await signer(job)
    return vc.issue({credential: job.document, suite, documentLoader, now: job.now})
  },
  async verify(job) {
    const loader = job.suite === 'Ed25519Signature2020' ? withOldKeys(documentLoader) : documentLoader
    return answered(await vc.verifyCredential({
      credential: job.document, suite: verifiers(job), documentLoader: loader, now: job.now,
    }))
  },
  async present(job) {
    const suite = await signer(job)
    const {document: presentation, challenge, domain} = job
    return vc.signPresentation({presentation, suite, challenge, domain, documentLoader})
  },
  async verifyPresentation(job) {
    const {document: presentation, challenge, domain} = job
    return answered(await vc.verify({
      presentation, challenge, domain, suite: verifiers(job), documentLoader, now: job.now,
    }))
  },
}

const answers = []
for (const job of jobs) {
  try {
    answers.push({value: await commands[job.command](job)})
  } catch (error) {
    answers.push({error: String(error.stack ?? error)})
  }
}
process.stdout.write(JSON.stringify(answers))
