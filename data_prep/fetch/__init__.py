"""Published studies brought here: addresses from one table, resumed, checked, unpacked safely."""
