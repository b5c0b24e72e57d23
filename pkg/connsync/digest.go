package connsync

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
)

// Digest stands for the configuration of one service as the data path holds
// it: two directors whose digests differ would send the same new client to
// different reals.
type Digest struct {
	Service string // at most 255 bytes
	Sum     uint64
}

// digestsOfFrame are as many digests as fit a frame, the first by name: directors that
// have the same services compare the same ones.
func digestsOfFrame(digests []Digest) []Digest {
	sorted := slices.Clone(digests)
	slices.SortFunc(sorted, func(a, b Digest) int { return cmp.Compare(a.Service, b.Service) })
	length := 0
	for i, d := range sorted {
		if length += 1 + min(len(d.Service), digestMaxName) + digestSumLen; length > maxFrame {
			return sorted[:i]
		}
	}
	return sorted
}

func appendDigests(b []byte, digests []Digest) []byte {
	for _, d := range digests {
		name := d.Service[:min(len(d.Service), digestMaxName)]
		b = append(append(b, uint8(len(name))), name...)
		b = binary.BigEndian.AppendUint64(b, d.Sum)
	}
	return b
}

func parseDigests(b []byte) ([]Digest, error) {
	var digests []Digest
	for len(b) > 0 {
		n := int(b[0])
		if len(b) < 1+n+digestSumLen {
			return nil, errors.New("digest that does not fit its frame")
		}
		digests = append(digests, Digest{
			Service: string(b[1 : 1+n]),
			Sum:     binary.BigEndian.Uint64(b[1+n:]),
		})
		b = b[1+n+digestSumLen:]
	}
	return digests, nil
}

// compareDigests names the services that ours and the peer's digests do not
// agree on, sorted; a service that only one has is one of them.
func compareDigests(ours, theirs []Digest) []string {
	sums := make(map[string]uint64, len(ours))
	for _, d := range ours {
		sums[d.Service] = d.Sum
	}
	var names []string
	for _, d := range theirs {
		sum, ok := sums[d.Service]
		if !ok || sum != d.Sum {
			names = append(names, d.Service)
		}
		delete(sums, d.Service)
	}
	for name := range sums {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
