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

var errUnknownKey = errors.New("the peer holds none of our keys (compare sync.key_file on both directors)")

// tlsConfig makes both ends of a session prove that they hold one of keys:
// each presents a certificate of the pair derived from its first key and takes
// any that belongs to one of its own keys. Names and authorities play no part.
func tlsConfig(keys []Key) (*tls.Config, error) {
	if len(keys) == 0 {
		return nil, errors.New("connection sync without a key")
	}
	accepted := map[string]bool{}
	var signer ed25519.PrivateKey
	for i, k := range keys {
		private, err := k.identity()
		if err != nil {
			return nil, err
		}
		if i == 0 {
			signer = private
		}
		accepted[string(private.Public().(ed25519.PublicKey))] = true
	}
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
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer}},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, //nolint:gosec // VerifyPeerCertificate compares the key itself
		SessionTicketsDisabled: true,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) != 1 {
				return errUnknownKey
			}
			cert, err := x509.ParseCertificate(raw[0])
			if err != nil {
				return errUnknownKey
			}
			public, ok := cert.PublicKey.(ed25519.PublicKey)
			if !ok || !accepted[string(public)] {
				return errUnknownKey
			}
			return nil
		},
	}, nil
}
