package config

import (
	"fmt"
	"hash/fnv"
	"strconv"
)

// Marks of lvx's choosing are 0x4c000000 ("L") and 24 bits of a hash.
const (
	markBase = 0x4c000000
	markBits = 24
)

func mark(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// marks gives every service that is listed by mark and names none a number.
// It depends on the service's name alone; where two names meet, or a name
// meets a mark of the file, the service that comes later in the file moves on.
func (d *decoder) marks(services []service) {
	used := map[uint32]bool{}
	for _, s := range services {
		used[s.Mark] = true
	}
	for i := range services {
		s := &services[i]
		if s.Mark != 0 || !s.ByMark() {
			continue
		}
		for try := 0; s.Mark == 0 || used[s.Mark]; try++ {
			s.Mark = chosen(s.Name, try)
		}
		used[s.Mark] = true
	}
}

// chosen is the mark that a name gets at a given try.
func chosen(name string, try int) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	if try > 0 {
		fmt.Fprintf(h, "#%d", try) // no name has a #
	}
	sum := h.Sum32()
	return markBase | (sum^sum>>markBits)&(1<<markBits-1)
}
