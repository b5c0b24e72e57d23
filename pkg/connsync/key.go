package connsync

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// keyLen is the length of a key, in bytes.
const keyLen = 32

// Key is a secret that directors share.
type Key [keyLen]byte

// String hides the key from logs.
func (Key) String() string { return "(a key)" }

// proof is what others know a key by: whoever presents it and signs holds the
// key.
type proof string

// proof is the public half of the key's identity.
func (k Key) proof() (proof, error) {
	private, err := k.identity()
	if err != nil {
		return "", err
	}
	return proof(private.Public().(ed25519.PublicKey)), nil
}

// name tells keys apart for people, and gives nothing away.
func (p proof) name() string {
	sum := sha256.Sum256([]byte(p))
	return hex.EncodeToString(sum[:4])
}

// ReadKeys reads a file of keys: one a line, 64 hexadecimal digits each; empty
// lines and lines that start with # are skipped. The first key signs, all are
// accepted, so that a key is changed without a gap: append the new one on
// every director, then put it first on every director, then remove the old
// one. A file that its group or others can read is refused.
func ReadKeys(path string) ([]Key, error) {
	const longest = 64 << 10
	b, err := guard.ReadSecret(path, longest)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	keys, err := parseKeys(string(b))
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return keys, nil
}

// parseKeys never quotes what it read: it may be a key with a typing error.
func parseKeys(text string) ([]Key, error) {
	var keys []Key
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		b, err := hex.DecodeString(line)
		if err != nil || len(b) != keyLen {
			return nil, fmt.Errorf("line %d: not a key (%d hexadecimal digits: openssl rand -hex %d)", n, 2*keyLen, keyLen)
		}
		keys = append(keys, Key(b))
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key in it (openssl rand -hex %d)", keyLen)
	}
	return keys, nil
}

// identity derives the pair of keys by which the holder of k proves that it
// holds k.
func (k Key) identity() (ed25519.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, k[:], nil, "lvx connection sync, ed25519", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

var errKeyRemoved = refusal{"the key that the peer signs with was removed here", "compare sync.key_file on both directors"}

var errUnknownKey = refusal{"the peer holds none of our keys", "compare sync.key_file on both directors"}

// keyring is the keys that sessions are made with.
type keyring struct {
	signer   proof
	accepted map[proof]bool
	tls      *tls.Config
}

// newKeyring makes both ends of a session prove that they hold one of keys:
// each presents a certificate of the pair derived from its first key and takes
// any that belongs to one of its own keys. Names and authorities play no part.
func newKeyring(keys []Key) (*keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("connection sync without a key")
	}
	r := &keyring{accepted: map[proof]bool{}}
	for _, k := range keys {
		p, err := k.proof()
		if err != nil {
			return nil, err
		}
		r.accepted[p] = true
	}
	signer, err := keys[0].identity()
	if err != nil {
		return nil, err
	}
	r.signer = proof(signer.Public().(ed25519.PublicKey))
	// No clock is compared: directors need not agree on the time.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return nil, err
	}
	r.tls = &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer}},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, //nolint:gosec // VerifyPeerCertificate compares the key itself
		SessionTicketsDisabled: true,
		VerifyPeerCertificate:  r.verify,
	}
	return r, nil
}

func (r *keyring) verify(raw [][]byte, _ [][]*x509.Certificate) error {
	if len(raw) != 1 {
		return errUnknownKey
	}
	cert, err := x509.ParseCertificate(raw[0])
	if err != nil || !r.accepted[proofOf(cert)] {
		return errUnknownKey
	}
	return nil
}

// proofOf is the proof that a certificate holds; "" if it is of another kind.
func proofOf(cert *x509.Certificate) proof {
	public, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return ""
	}
	return proof(public)
}

// proofOfPeer is the proof that the other end of a connection has given.
func proofOfPeer(conn *tls.Conn) proof {
	certs := conn.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return ""
	}
	return proofOf(certs[0])
}
